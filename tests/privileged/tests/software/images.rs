//! The images, and the registry that has them.

use std::path::Path;

use anyhow::Context as _;
use waggle_tests_support::cluster::NodeInfo;
use waggle_tests_support::images::{Compression, Image, Layer};
use waggle_tests_support::netns::NetNs;
use waggle_tests_support::registry::{Access, Registry, Setup};
use waggle_tests_support::software::Files;

/// Debian's PostgreSQL.
const POSTGRES: &str = "/usr/lib/postgresql/15";
const SHARE: &str = "/usr/share/postgresql/15";
const REDIS: &str = "/usr/bin/redis-server";
const NGINX: &str = "/usr/sbin/nginx";
/// The distribution's, whatever else is on the path.
const PYTHON: &str = "/usr/bin/python3";
const PYTHON_LIB: &str = "/usr/lib/python3.11";
/// What the app imports, and what that imports.
const PACKAGES: [&str; 8] = [
    "collections",
    "email",
    "encodings",
    "html",
    "http",
    "importlib",
    "re",
    "urllib",
];

/// Why the images can't be made here, if so.
pub fn missing() -> Option<&'static str> {
    let wanted = [
        (REDIS, "no redis-server; the package of that name has it"),
        (NGINX, "no nginx; package nginx-light has it"),
        (
            PYTHON_LIB,
            "no Python 3.11 of the distribution; package python3-minimal has it",
        ),
        (POSTGRES, "no PostgreSQL; package postgresql-15 has it"),
    ];
    let absent = wanted
        .into_iter()
        .find(|(path, _)| !Path::new(path).exists());
    absent.map(|(_, why)| why)
}

/// A private registry in the node's network, with all images.
pub struct Store {
    pub registry: Registry,
}

impl Store {
    /// Makes the images, lower layers once.
    pub fn fill(node: &NodeInfo) -> anyhow::Result<Self> {
        let setup = Setup {
            access: Access::Password,
            tls: true,
        };
        let netns = NetNs::open(&node.netns)?;
        let dir = node.work_dir.join("registry");
        let registry = netns.run(|| Registry::start(&dir, setup))??;
        let postgres = postgres()?;
        let redis = Files::new().program(REDIS)?;
        let nginx = Files::new().program(NGINX)?;
        let python = python()?;
        let all = postgres
            .clone()
            .with(redis.clone())
            .with(nginx.clone())
            .with(python.clone());
        let libraries = all.libraries()?.layer()?.finish();
        let base = || -> anyhow::Result<Image> {
            let busybox = Image::busybox()?.compression(Compression::Zstd);
            Ok(busybox.raw_layer(libraries.clone()))
        };
        let app =
            Layer::new()
                .dir("app", 0o755)
                .file("app/main.py", 0o644, include_bytes!("app.py"));
        let conf = Layer::new()
            .dir("etc/nginx", 0o755)
            .file("etc/nginx/nginx.conf", 0o644, include_bytes!("nginx.conf"))
            .dir("var", 0o755)
            .dir("var/lib", 0o755)
            .dir("var/lib/nginx", 0o1777)
            .dir("var/log", 0o755)
            .dir("var/log/nginx", 0o1777);
        let users = Layer::new().file(
            "etc/passwd",
            0o644,
            b"root:x:0:0:root:/root:/bin/sh\npostgres:x:70:70::/:/bin/sh\n",
        );
        let images = [
            (
                "team/redis:7",
                base()?
                    .layer(redis.layer()?)
                    .entrypoint(&[REDIS])
                    .cmd(&["--save", "", "--protected-mode", "no"])
                    .set("User", "app"),
            ),
            (
                "team/python:3.11",
                base()?
                    .layer(python.layer()?)
                    .layer(app)
                    .entrypoint(&[PYTHON, "-S"])
                    .cmd(&["/app/main.py"])
                    .set("User", "app"),
            ),
            (
                "team/nginx:1.22",
                base()?
                    .layer(nginx.layer()?)
                    .layer(conf)
                    .cmd(&[NGINX, "-c", "/etc/nginx/nginx.conf"])
                    .set("StopSignal", "SIGQUIT"),
            ),
            (
                "team/postgres:15",
                base()?
                    .layer(postgres.layer()?)
                    .layer(users)
                    .env("PATH", &format!("{POSTGRES}/bin:/bin"))
                    .set("User", "postgres")
                    .set("StopSignal", "SIGINT"),
            ),
        ];
        for (name, image) in &images {
            netns
                .run(|| registry.push(image, name))?
                .with_context(|| (*name).to_owned())?;
        }
        Ok(Self { registry })
    }

    /// The whole name of an image.
    pub fn name(&self, name: &str) -> String {
        format!("{}/team/{name}", self.registry.host())
    }
}

fn postgres() -> anyhow::Result<Files> {
    let bin = |name: &str| format!("{POSTGRES}/bin/{name}");
    let wanted = |below: &str| {
        // Neither compiled queries nor other languages than its own.
        !below.contains("llvmjit") && !below.contains("bitcode") && !below.contains("extension/")
            || below.contains("plpgsql")
    };
    let libraries = |below: &str| ["plpgsql.so", "dict_snowball.so"].contains(&below);
    Files::new()
        .program(&bin("postgres"))?
        .program(&bin("initdb"))?
        .tree(&format!("{POSTGRES}/lib"), libraries)?
        .tree(SHARE, wanted)
}

fn python() -> anyhow::Result<Files> {
    let wanted = |below: &str| {
        let top = below.split('/').next().unwrap_or_default();
        let module =
            !below.contains('/') && Path::new(below).extension().is_some_and(|e| e == "py");
        let package = PACKAGES.contains(&top) && !below.contains("__pycache__");
        module || package
    };
    Files::new().program(PYTHON)?.tree(PYTHON_LIB, wanted)
}
