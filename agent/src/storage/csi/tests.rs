//! The client against a driver that is served on a socket here: directories of the host, bound where they are wanted.

use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tokio::{net::UnixListener, task::JoinHandle};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Code, Request, Response, Status};
use waggle_api::proto::csi::{
    controller_server::{Controller, ControllerServer},
    identity_server::{Identity, IdentityServer},
    node_server::{Node, NodeServer},
};

use super::*;

#[derive(Debug, Default)]
struct World {
    calls: Vec<String>,
    /// Answers to give before a call does anything: the call's name, and the code.
    failures: Vec<(&'static str, Code)>,
    attached: BTreeSet<String>,
}

#[derive(Clone)]
struct HostPath {
    root: PathBuf,
    world: Arc<Mutex<World>>,
}

type Answer<T> = Result<Response<T>, Status>;

#[allow(clippy::unnecessary_wraps, reason = "what every call answers")]
fn ok<T>(message: T) -> Answer<T> {
    Ok(Response::new(message))
}

impl HostPath {
    #[allow(clippy::result_large_err, reason = "tonic's own error type")]
    fn called(&self, what: &'static str) -> Result<(), Status> {
        let mut world = self.world.lock().unwrap();
        world.calls.push(what.to_owned());
        if let Some(at) = world.failures.iter().position(|(w, _)| *w == what) {
            let (_, code) = world.failures.remove(at);
            return Err(Status::new(code, "as the test wants"));
        }
        Ok(())
    }

    fn volume(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }
}

fn bind(from: &Path, to: &str, read_only: bool) {
    let none: Option<&str> = None;
    fs::create_dir_all(to).unwrap();
    if fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .contains(&format!(" {to} "))
    {
        return;
    }
    mount(Some(from), to, none, MsFlags::MS_BIND, none).unwrap();
    if read_only {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, to, none, flags, none).unwrap();
    }
}

fn unbind(at: &str) {
    while umount2(at, MntFlags::MNT_DETACH).is_ok() {}
    let _ = fs::remove_dir(at);
}

#[tonic::async_trait]
impl Identity for HostPath {
    async fn get_plugin_info(
        &self,
        _: Request<pb::GetPluginInfoRequest>,
    ) -> Answer<pb::GetPluginInfoResponse> {
        ok(pb::GetPluginInfoResponse {
            name: "hostpath.test".to_owned(),
            vendor_version: "1".to_owned(),
            manifest: BTreeMap::new(),
        })
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<pb::GetPluginCapabilitiesRequest>,
    ) -> Answer<pb::GetPluginCapabilitiesResponse> {
        let service = Some(pb::PluginService { r#type: 1 });
        ok(pb::GetPluginCapabilitiesResponse {
            capabilities: vec![pb::PluginCapability { service }],
        })
    }

    async fn probe(&self, _: Request<pb::ProbeRequest>) -> Answer<pb::ProbeResponse> {
        // Not ready at first.
        let ready = self.called("Probe").is_ok();
        ok(pb::ProbeResponse {
            ready: Some(pb::BoolValue { value: ready }),
        })
    }
}

#[tonic::async_trait]
impl Controller for HostPath {
    async fn create_volume(
        &self,
        r: Request<pb::CreateVolumeRequest>,
    ) -> Answer<pb::CreateVolumeResponse> {
        self.called("CreateVolume")?;
        let r = r.into_inner();
        assert_eq!(r.volume_capabilities.len(), 1);
        let id = format!("id-{}", r.name);
        fs::create_dir_all(self.volume(&id)).unwrap();
        ok(pb::CreateVolumeResponse {
            volume: Some(pb::CsiVolume {
                capacity_bytes: r.capacity_range.map_or(0, |c| c.required_bytes),
                volume_id: id,
                volume_context: r.parameters,
            }),
        })
    }

    async fn delete_volume(
        &self,
        _: Request<pb::DeleteVolumeRequest>,
    ) -> Answer<pb::DeleteVolumeResponse> {
        self.called("DeleteVolume")?;
        Err(Status::failed_precondition("nobody said so"))
    }

    async fn controller_publish_volume(
        &self,
        r: Request<pb::ControllerPublishVolumeRequest>,
    ) -> Answer<pb::ControllerPublishVolumeResponse> {
        self.called("ControllerPublishVolume")?;
        let r = r.into_inner();
        assert_eq!(r.node_id, "node-7");
        assert_eq!(r.volume_context["pool"], "fast");
        self.world.lock().unwrap().attached.insert(r.volume_id);
        ok(pb::ControllerPublishVolumeResponse {
            publish_context: [("device".to_owned(), "d1".to_owned())].into(),
        })
    }

    async fn controller_unpublish_volume(
        &self,
        r: Request<pb::ControllerUnpublishVolumeRequest>,
    ) -> Answer<pb::ControllerUnpublishVolumeResponse> {
        self.called("ControllerUnpublishVolume")?;
        let r = r.into_inner();
        assert_eq!(r.node_id, "node-7");
        self.world.lock().unwrap().attached.remove(&r.volume_id);
        ok(pb::ControllerUnpublishVolumeResponse {})
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<pb::ControllerGetCapabilitiesRequest>,
    ) -> Answer<pb::ControllerGetCapabilitiesResponse> {
        let of = |n| pb::ControllerServiceCapability {
            rpc: Some(pb::CapabilityRpc { r#type: n }),
        };
        ok(pb::ControllerGetCapabilitiesResponse {
            capabilities: vec![of(1), of(2), of(7)],
        })
    }
}

#[tonic::async_trait]
impl Node for HostPath {
    async fn node_stage_volume(
        &self,
        r: Request<pb::NodeStageVolumeRequest>,
    ) -> Answer<pb::NodeStageVolumeResponse> {
        self.called("NodeStageVolume")?;
        let r = r.into_inner();
        assert_eq!(r.publish_context["device"], "d1");
        assert!(
            Path::new(&r.staging_target_path).is_dir(),
            "the caller makes it"
        );
        assert!(self.world.lock().unwrap().attached.contains(&r.volume_id));
        bind(&self.volume(&r.volume_id), &r.staging_target_path, false);
        ok(pb::NodeStageVolumeResponse {})
    }

    async fn node_unstage_volume(
        &self,
        r: Request<pb::NodeUnstageVolumeRequest>,
    ) -> Answer<pb::NodeUnstageVolumeResponse> {
        self.called("NodeUnstageVolume")?;
        unbind(&r.into_inner().staging_target_path);
        ok(pb::NodeUnstageVolumeResponse {})
    }

    async fn node_publish_volume(
        &self,
        r: Request<pb::NodePublishVolumeRequest>,
    ) -> Answer<pb::NodePublishVolumeResponse> {
        self.called("NodePublishVolume")?;
        let r = r.into_inner();
        bind(
            Path::new(&r.staging_target_path),
            &r.target_path,
            r.readonly,
        );
        ok(pb::NodePublishVolumeResponse {})
    }

    async fn node_unpublish_volume(
        &self,
        r: Request<pb::NodeUnpublishVolumeRequest>,
    ) -> Answer<pb::NodeUnpublishVolumeResponse> {
        self.called("NodeUnpublishVolume")?;
        unbind(&r.into_inner().target_path);
        ok(pb::NodeUnpublishVolumeResponse {})
    }

    async fn node_get_capabilities(
        &self,
        _: Request<pb::NodeGetCapabilitiesRequest>,
    ) -> Answer<pb::NodeGetCapabilitiesResponse> {
        let rpc = Some(pb::CapabilityRpc { r#type: 1 });
        ok(pb::NodeGetCapabilitiesResponse {
            capabilities: vec![pb::NodeServiceCapability { rpc }],
        })
    }

    async fn node_get_info(
        &self,
        _: Request<pb::NodeGetInfoRequest>,
    ) -> Answer<pb::NodeGetInfoResponse> {
        ok(pb::NodeGetInfoResponse {
            node_id: "node-7".to_owned(),
            max_volumes_per_node: 0,
        })
    }
}

struct Scene {
    dir: tempfile::TempDir,
    driver: HostPath,
    server: JoinHandle<()>,
}

impl Scene {
    fn new() -> Option<Self> {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("SKIP: a driver that mounts needs root");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let driver = HostPath {
            root: dir.path().join("disk"),
            world: Arc::default(),
        };
        let server = serve(&driver, &dir.path().join("csi.sock"));
        Some(Self {
            dir,
            driver,
            server,
        })
    }

    /// As an agent that begins.
    fn csi(&self) -> Csi {
        let drivers = [("host".to_owned(), self.dir.path().join("csi.sock"))].into();
        Csi::open(&self.dir.path().join("work"), &drivers).unwrap()
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.driver.world.lock().unwrap().calls)
    }

    fn fail(&self, what: &'static str, code: Code) {
        self.driver
            .world
            .lock()
            .unwrap()
            .failures
            .push((what, code));
    }

    /// No mount, no directory, no record, nothing attached.
    fn assert_clean(&self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(
            !mounts.contains(&self.dir.path().display().to_string()),
            "{mounts}"
        );
        let count = |p: &str| {
            let entries = fs::read_dir(self.dir.path().join("work").join(p));
            entries.map(Iterator::count).unwrap_or_default()
        };
        assert_eq!((count("volumes"), count("mounts")), (0, 0));
        assert!(self.driver.world.lock().unwrap().attached.is_empty());
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // A test that failed leaves no mounts either.
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let root = self.dir.path().display().to_string();
        for at in mounts.lines().filter_map(|l| l.split(' ').nth(4)) {
            if at.starts_with(&root) {
                let _ = umount2(at, MntFlags::MNT_DETACH);
            }
        }
    }
}

fn serve(driver: &HostPath, socket: &Path) -> JoinHandle<()> {
    let _ = fs::remove_file(socket);
    let listener = UnixListener::bind(socket).unwrap();
    let server = tonic::transport::Server::builder()
        .add_service(IdentityServer::new(driver.clone()))
        .add_service(ControllerServer::new(driver.clone()))
        .add_service(NodeServer::new(driver.clone()))
        .serve_with_incoming(UnixListenerStream::new(listener));
    tokio::spawn(async move { server.await.unwrap() })
}

fn volume(name: &str) -> ExternalVolume {
    ExternalVolume {
        provider: "host".to_owned(),
        name: name.to_owned(),
        size_mib: 1,
        options: [("pool".to_owned(), "fast".to_owned())].into(),
    }
}

fn external(name: &str) -> External {
    External {
        provider: "host".to_owned(),
        name: name.to_owned(),
    }
}

fn task(id: &str) -> TaskId {
    TaskId::new(id).unwrap()
}

#[tokio::test]
async fn a_volume_comes_to_two_tasks_and_goes_with_the_last() {
    let Some(scene) = Scene::new() else { return };
    let csi = scene.csi();
    let a = csi
        .publish(&task("a"), &volume("größe/1"), false)
        .await
        .unwrap();
    fs::write(a.join("x"), "data").unwrap();
    let b = csi
        .publish(&task("b"), &volume("größe/1"), true)
        .await
        .unwrap();
    assert_eq!(fs::read_to_string(b.join("x")).unwrap(), "data");
    let read_only = fs::write(b.join("x"), "y").unwrap_err();
    assert_eq!(read_only.raw_os_error(), Some(libc::EROFS));
    assert_eq!(
        scene.calls(),
        [
            "Probe",
            "CreateVolume",
            "ControllerPublishVolume",
            "NodeStageVolume",
            "NodePublishVolume",
            "NodePublishVolume"
        ]
    );
    csi.unpublish("a", &external("größe/1")).await.unwrap();
    assert_eq!(scene.calls(), ["NodeUnpublishVolume"]);
    assert!(!a.exists() && b.join("x").exists());
    csi.unpublish("b", &external("größe/1")).await.unwrap();
    csi.unpublish("b", &external("größe/1")).await.unwrap();
    assert_eq!(
        scene.calls(),
        [
            "NodeUnpublishVolume",
            "NodeUnstageVolume",
            "ControllerUnpublishVolume"
        ]
    );
    scene.assert_clean();
    // The data is the driver's, and is there the next time.
    let again = csi
        .publish(&task("c"), &volume("größe/1"), false)
        .await
        .unwrap();
    assert_eq!(fs::read_to_string(again.join("x")).unwrap(), "data");
    csi.unpublish("c", &external("größe/1")).await.unwrap();
    scene.assert_clean();
    scene.server.abort();
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_what_not_is_told() {
    let Some(scene) = Scene::new() else { return };
    let csi = scene.csi();
    scene.fail("Probe", Code::Unavailable);
    scene.fail("CreateVolume", Code::Aborted);
    scene.fail("NodeStageVolume", Code::Unavailable);
    csi.publish(&task("a"), &volume("v"), false).await.unwrap();
    assert_eq!(
        scene.calls(),
        [
            "Probe",
            "Probe",
            "CreateVolume",
            "CreateVolume",
            "ControllerPublishVolume",
            "NodeStageVolume",
            "NodeStageVolume",
            "NodePublishVolume"
        ]
    );
    scene.fail("NodePublishVolume", Code::ResourceExhausted);
    let error = csi
        .publish(&task("b"), &volume("v"), false)
        .await
        .unwrap_err();
    assert_eq!(
        error,
        "storage driver host: NodePublishVolume failed (ResourceExhausted): as the test wants"
    );
    // It may have happened: it is undone too.
    csi.unpublish("b", &external("v")).await.unwrap();
    csi.unpublish("a", &external("v")).await.unwrap();
    scene.assert_clean();
    let unknown = ExternalVolume {
        provider: "nfs".to_owned(),
        ..volume("v")
    };
    let error = csi.publish(&task("a"), &unknown, false).await.unwrap_err();
    assert!(
        error.starts_with("this node has no storage driver \"nfs\""),
        "{error}"
    );
    scene.server.abort();
}

#[tokio::test]
async fn the_next_agent_knows_what_is_published() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let first = scene.csi();
    first
        .publish(&task("a"), &volume("v"), false)
        .await
        .unwrap();
    drop(first);
    scene.calls();
    // The driver is away when the task ends.
    scene.server.abort();
    let _ = (&mut scene.server).await;
    let second = scene.csi();
    let held = second.held().unwrap();
    assert_eq!(
        held.into_iter().collect::<Vec<_>>(),
        [("a".to_owned(), external("v"))]
    );
    let begun = Instant::now();
    let error = second.unpublish("a", &external("v")).await.unwrap_err();
    assert!(
        error.contains("GetPluginInfo failed (Unavailable)"),
        "{error}"
    );
    assert!(
        begun.elapsed() > Duration::from_secs(1),
        "it was tried several times"
    );
    assert_eq!(second.held().unwrap().len(), 1, "it is still to be done");
    scene.server = serve(&scene.driver, &scene.dir.path().join("csi.sock"));
    // An agent after that one finishes it.
    let third = scene.csi();
    third.unpublish("a", &external("v")).await.unwrap();
    assert_eq!(third.held().unwrap().len(), 0);
    scene.assert_clean();
    scene.server.abort();
}
