//! `waggle pod ...`: pods through the Marathon API.

use serde_json::{Value, json};
use waggle_api::{marathon::pod_from_value, native::DeploymentView};

use super::{app::validate, encode_path, fetch_list, items, print, print_json, text, wait};
use crate::{
    args::{PodCommand, PodSub, Wait},
    client::Client,
    config, definition,
    error::{CliError, usage},
    table::Table,
};

/// Runs `waggle pod ...`.
pub async fn run(command: PodCommand) -> Result<(), CliError> {
    if let PodSub::Validate { files } = &command.command {
        return validate::run(files, command.output.json, |pod, now| {
            pod_from_value(pod, None, now)
        });
    }
    let cluster = Cluster {
        marathon: Client::new(&command.output.marathon)?,
        master: Client::new(&command.output.master)?,
        json: command.output.json,
    };
    match command.command {
        PodSub::Add { file, wait } => {
            let body = definition::read(&file)?;
            let pod = cluster.marathon.post("/v2/pods", body).await?;
            cluster
                .deployed(&text(&pod, "id"), &pod, "added", &wait)
                .await
        }
        PodSub::Update { file, force, wait } => {
            let body = definition::read_value(&file)?;
            let id = text(&body, "id");
            if id.trim_matches('/').is_empty() {
                return Err(usage(format!("{}: id: must be set", file.display())));
            }
            cluster.put(&id, &body, force, &wait).await
        }
        PodSub::Scale {
            id,
            instances,
            force,
            wait,
        } => {
            let mut pod = cluster.marathon.get(&pod_path(&id)).await?;
            pod["scaling"]["instances"] = instances.into();
            cluster.put(&id, &pod, force, &wait).await
        }
        // Answered above.
        PodSub::Validate { .. } => Ok(()),
        PodSub::List => cluster.list().await,
        PodSub::Show { id } => print_json(&cluster.marathon.get(&pod_path(&id)).await?),
        PodSub::Status { id } => cluster.status(&id).await,
        PodSub::Kill {
            id,
            instances,
            wipe,
        } => cluster.kill(&id, &instances, wipe).await,
        PodSub::Versions { id, version } => cluster.versions(&id, version.as_deref()).await,
        PodSub::Remove { id, force, wait } => {
            let path = format!("{}?force={force}", pod_path(&id));
            let answer = cluster.marathon.delete(&path).await?;
            cluster.deployed(&id, &answer, "removed", &wait).await
        }
    }
}

fn pod_path(id: &str) -> String {
    format!("/v2/pods/{}", encode_path(id.trim_matches('/')))
}

/// Both APIs, and how to print.
struct Cluster {
    marathon: Client,
    master: Client,
    json: bool,
}

impl Cluster {
    async fn put(&self, id: &str, pod: &Value, force: bool, wait: &Wait) -> Result<(), CliError> {
        let path = format!("{}?force={force}", pod_path(id));
        let answer = self.marathon.put(&path, pod.to_string()).await?;
        self.deployed(id, &answer, "updated", wait).await
    }

    /// Says what began, or waits for the end of every deployment that changes the pod.
    async fn deployed(
        &self,
        id: &str,
        answer: &Value,
        what: &str,
        wait: &Wait,
    ) -> Result<(), CliError> {
        let id = format!("/{}", id.trim_matches('/'));
        let limit = config::positive("timeout", &wait.timeout)?;
        let (_, all) = fetch_list::<DeploymentView>(&self.master, "/waggle/v1/deployments").await?;
        let mine: Vec<&DeploymentView> = all.iter().filter(|d| d.services.contains(&id)).collect();
        if wait.wait {
            for d in &mine {
                wait::deployment(&self.marathon, &self.master, &d.id, limit).await?;
            }
        }
        if self.json {
            return print_json(answer);
        }
        let ids: Vec<&str> = mine.iter().map(|d| d.id.as_str()).collect();
        let how = if wait.wait { "done" } else { "started" };
        print(&match ids.as_slice() {
            [] => format!("{id}: {what}\n"),
            ids => format!("{id}: {what}, deployment {} {how}\n", ids.join(", ")),
        })
    }

    async fn list(&self) -> Result<(), CliError> {
        let all = self.marathon.get("/v2/pods/::status").await?;
        if self.json {
            return print_json(&all);
        }
        let mut table = Table::new(&["id", "status", "stable", "containers", "networks"]);
        for pod in all.as_array().into_iter().flatten() {
            let spec = &pod["spec"];
            let stable = items(pod, "instances").filter(|i| i["status"] == "STABLE");
            let names: Vec<String> = items(spec, "containers").map(|c| text(c, "name")).collect();
            let networks = items(spec, "networks").map(|n| match text(n, "name") {
                name if name.is_empty() => text(n, "mode"),
                name => name,
            });
            table.row([
                text(pod, "id"),
                text(pod, "status").to_lowercase(),
                format!("{}/{}", stable.count(), text(&spec["scaling"], "instances")),
                names.join(","),
                networks.collect::<Vec<_>>().join(","),
            ]);
        }
        print(&table.render())
    }

    async fn status(&self, id: &str) -> Result<(), CliError> {
        let status = self
            .marathon
            .get(&format!("{}::status", pod_path(id)))
            .await?;
        if self.json {
            return print_json(&status);
        }
        let mut out = format!(
            "{}: {} since {}\n",
            text(&status, "id"),
            text(&status, "status").to_lowercase(),
            text(&status, "statusSince")
        );
        if status["message"].is_string() {
            out.push_str(&format!("{}\n", text(&status, "message")));
        }
        print(&out)?;
        let mut table = Table::new(&[
            "instance",
            "container",
            "state",
            "healthy",
            "host",
            "endpoints",
        ]);
        for i in items(&status, "instances") {
            let host = text(i, "agentHostname");
            let row = |name: &str, state: &str, healthy: String, endpoints: String| {
                [
                    text(i, "id"),
                    name.to_owned(),
                    state.to_lowercase(),
                    healthy,
                    host.clone(),
                    endpoints,
                ]
            };
            table.row(row("", &text(i, "status"), String::new(), String::new()));
            for c in items(i, "containers") {
                let healthy = items(c, "conditions").find(|c| c["name"] == "healthy");
                let healthy = healthy.map(|c| text(c, "value")).unwrap_or_default();
                let ports = items(c, "endpoints").map(|e| match text(e, "allocatedHostPort") {
                    port if port.is_empty() => text(e, "name"),
                    port => format!("{}={port}", text(e, "name")),
                });
                let ports: Vec<String> = ports.collect();
                let state = text(c, "status");
                let state = state.trim_start_matches("TASK_");
                table.row(row(&text(c, "name"), state, healthy, ports.join(",")));
            }
        }
        print(&table.render())?;
        let mut table = Table::new(&["ended", "at", "why"]);
        let mut any = false;
        for e in items(&status, "terminationHistory") {
            any = true;
            table.row([
                text(e, "instanceID"),
                text(e, "terminatedAt"),
                text(e, "message"),
            ]);
        }
        if any {
            print(&format!("\n{}", table.render()))?;
        }
        Ok(())
    }

    /// All of them in one request; one that is not there ends none.
    async fn kill(&self, id: &str, instances: &[String], wipe: bool) -> Result<(), CliError> {
        let path = format!("{}::instances?wipe={wipe}&strict=true", pod_path(id));
        let told = self
            .marathon
            .delete_with(&path, json!(instances).to_string())
            .await?;
        if self.json {
            return print_json(&told);
        }
        let mut lines = String::new();
        for i in instances {
            lines.push_str(&format!("{i}: told to end\n"));
        }
        print(&lines)
    }

    async fn versions(&self, id: &str, version: Option<&str>) -> Result<(), CliError> {
        let base = format!("{}::versions", pod_path(id));
        if let Some(version) = version {
            let path = format!("{base}/{}", encode_path(version));
            return print_json(&self.marathon.get(&path).await?);
        }
        let all = self.marathon.get(&base).await?;
        if self.json {
            return print_json(&all);
        }
        super::print_versions(all.as_array().into_iter().flatten())
    }
}
