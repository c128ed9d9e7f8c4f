//! Definitions of apps that serve with nginx.

use serde_json::{Value, json};

/// What an instance answers, and what it needs.
pub struct Web<'a> {
    /// The app's id.
    pub id: &'a str,
    /// Its VIP: `/web:80`.
    pub vip: &'a str,
    /// First word of each answer.
    pub version: &'a str,
    /// Instances.
    pub instances: u32,
}

/// nginx as operators run it behind a balancer that takes instances out before it ends them: told to end, it closes each
/// connection with the next answer on it, and ends when there is none left. In a session of its own, so that the signal to
/// the task's process group is the script's alone.
const SERVE: &str = r#"PATH="$PATH:/usr/sbin"
mkdir -p tmp
cat > nginx.conf <<END
daemon off;
user root;
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
events { worker_connections 1024; }
http {
  access_log off;
  client_body_temp_path tmp/body; proxy_temp_path tmp/proxy; fastcgi_temp_path tmp/fastcgi;
  uwsgi_temp_path tmp/uwsgi; scgi_temp_path tmp/scgi;
  keepalive_requests 1000000;
  server {
    listen $PORT0 backlog=1024;
    location /health { return 200 "ok\n"; }
    location / {
      if (-f $PWD/leaving) { rewrite ^ /last last; }
      return 200 "$VERSION $MESOS_TASK_ID\n";
    }
    location /last { keepalive_timeout 0; return 200 "$VERSION $MESOS_TASK_ID\n"; }
  }
}
END
setsid nginx -p "$PWD/" -c "$PWD/nginx.conf" &
server=$!
trap 'touch leaving; sleep 1; kill -QUIT $server' TERM
wait $server
wait $server"#;

/// The definition.
pub fn app(web: &Web<'_>) -> Value {
    json!({
        "id": web.id, "cmd": SERVE, "instances": web.instances, "cpus": 0.1, "mem": 64, "disk": 0,
        "env": {"VERSION": web.version},
        "portDefinitions": [{"port": 0, "name": "http", "labels": {"VIP_0": web.vip}}],
        "healthChecks": [{
            "protocol": "HTTP", "path": "/health", "portIndex": 0, "gracePeriodSeconds": 20, "intervalSeconds": 1,
            "timeoutSeconds": 5, "maxConsecutiveFailures": 5,
        }],
        "upgradeStrategy": {"minimumHealthCapacity": 1.0, "maximumOverCapacity": 0.5},
        "taskKillGracePeriodSeconds": 10,
    })
}
