//! Code generated from the protobuf files: committed, and checked for freshness.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use prost::Message as _;
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorSet, MethodDescriptorProto,
    field_descriptor_proto::{Label, Type},
};
use tonic_prost_build::Builder;

use crate::run::repo;

/// Regenerates, or checks with `check` that there is nothing to regenerate.
pub fn main(check: bool) -> anyhow::Result<ExitCode> {
    if check {
        fresh()?;
        println!("generated code is fresh");
    } else {
        let gen_dir = out_dir();
        std::fs::create_dir_all(&gen_dir)?;
        for (name, text) in generate()? {
            std::fs::write(gen_dir.join(&name), text)?;
            println!("wrote master/api/src/gen/{name}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn out_dir() -> PathBuf {
    repo().join("master/api/src/gen")
}

/// Fails when the committed code is not what would be generated.
pub fn fresh() -> anyhow::Result<()> {
    for (name, text) in generate()? {
        let committed = std::fs::read_to_string(out_dir().join(&name)).unwrap_or_default();
        if committed != text {
            bail!("master/api/src/gen/{name} is not what its .proto says; run `cargo xtask proto`");
        }
    }
    Ok(())
}

fn generate() -> anyhow::Result<BTreeMap<String, String>> {
    let dir = repo().join("master/api/proto");
    let mut protos: Vec<PathBuf> = std::fs::read_dir(&dir)
        .with_context(|| format!("read {}", dir.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "proto"))
        .collect();
    protos.sort();
    let out = tempfile::tempdir().context("make a directory to generate into")?;
    // Twice: what becomes JSON is told by the descriptors that the first time gives.
    let all = compile(&protos, &dir, out.path(), Builder::clone)?;
    let all = compile(&protos, &dir, out.path(), |b| json(&all, b.clone()))?;
    let mut files = read_all(out.path())?;
    files.insert("shapes.rs".to_owned(), shapes(&all)?);
    files.insert("names.rs".to_owned(), names(&all)?);
    Ok(files)
}

fn compile(
    protos: &[PathBuf],
    dir: &Path,
    out: &Path,
    with: impl Fn(&Builder) -> Builder,
) -> anyhow::Result<FileDescriptorSet> {
    let described = tempfile::NamedTempFile::new().context("make a file for descriptors")?;
    let builder = tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        // tonic's own `connect` would collide with the call of that name.
        .build_transport(false)
        // Ordered, so that equal messages have equal bytes.
        .btree_map(".")
        .codec_path("crate::codec::BoundedCodec")
        .file_descriptor_set_path(described.path())
        .out_dir(out);
    with(&builder)
        .compile_protos(protos, &[dir.to_owned()])
        .context("generate code (needs protoc)")?;
    let bytes = std::fs::read(described.path()).context("read the descriptors")?;
    FileDescriptorSet::decode(bytes.as_slice()).context("read the descriptors")
}

/// The package whose messages are JSON, too.
const JSON: &str = "mesos.v1";

/// Has messages of Mesos read and written as its JSON: names as in the `.proto`, enums by name, bytes in base64,
/// what is not set left out.
fn json(all: &FileDescriptorSet, builder: Builder) -> Builder {
    let package = format!(".{JSON}");
    let mut b = builder.message_attribute(
        &package,
        "#[derive(serde::Serialize, serde::Deserialize)]\n#[serde(default)]",
    );
    for file in all.file.iter().filter(|f| f.package() == JSON) {
        for message in &file.message_type {
            for field in &message.field {
                let path = format!("{package}.{}.{}", message.name(), field.name());
                let unset = "skip_serializing_if = \"crate::mesos::json::Unset::is_unset\"";
                b = b.field_attribute(&path, format!("#[serde({unset})]"));
                let with = match field.r#type() {
                    Type::Enum => {
                        format!(
                            "crate::mesos::json::Enum::<{}>",
                            enum_path(field.type_name())
                        )
                    }
                    Type::Bytes => "crate::mesos::json::Base64".to_owned(),
                    Type::Message if is_list(message, field) => {
                        let many = "deserialize_with = \"crate::mesos::json::one_or_many\"";
                        b = b.field_attribute(path, format!("#[serde({many})]"));
                        continue;
                    }
                    _ => continue,
                };
                b = b.field_attribute(path, format!("#[serde(with = \"{with}\")]"));
            }
        }
    }
    b
}

/// Whether a field is a list of messages; maps are lists of entries on the wire alone.
fn is_list(message: &DescriptorProto, field: &FieldDescriptorProto) -> bool {
    let entry = field.type_name().rsplit('.').next().unwrap_or_default();
    let mut nested = message.nested_type.iter();
    let is_map = nested.any(|n| {
        n.name() == entry
            && n.options
                .as_ref()
                .is_some_and(prost_types::MessageOptions::map_entry)
    });
    field.label() == Label::Repeated && !is_map
}

/// Enums of Mesos by name and by number.
fn names(all: &FileDescriptorSet) -> anyhow::Result<String> {
    let mut out = String::from("// This file is @generated by `cargo xtask proto`.\n");
    let mut put = |name: String| {
        let path = enum_path(&name);
        write!(
            out,
            "impl Named for {path} {{\n    fn name(self) -> &'static str {{\n        self.as_str_name()\n    }}\n    \
             fn named(name: &str) -> Option<Self> {{\n        Self::from_str_name(name)\n    }}\n}}\n"
        )
    };
    for file in all.file.iter().filter(|f| f.package() == JSON) {
        for e in &file.enum_type {
            put(format!(".{JSON}.{}", e.name()))?;
        }
        for message in &file.message_type {
            for e in &message.enum_type {
                put(format!(".{JSON}.{}.{}", message.name(), e.name()))?;
            }
        }
    }
    Ok(out)
}

/// `.mesos.v1.TaskStatus.Reason` as code outside of the generated modules finds it.
fn enum_path(name: &str) -> String {
    let name = name.trim_start_matches('.').trim_start_matches(JSON);
    let mut parts: Vec<&str> = name.split('.').filter(|p| !p.is_empty()).collect();
    let last = parts.pop().unwrap_or_default();
    let modules: Vec<String> = parts.into_iter().map(snake).collect();
    let mut path = vec!["crate::proto::mesos".to_owned()];
    path.extend(modules);
    path.push(last.to_owned());
    path.join("::")
}

/// `TaskStatus` becomes `task_status`.
fn snake(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// What each message is made of, for the codec's bound.
fn shapes(all: &FileDescriptorSet) -> anyhow::Result<String> {
    let requests: BTreeSet<&str> = all
        .file
        .iter()
        .flat_map(|f| &f.service)
        .flat_map(|s| &s.method)
        .map(MethodDescriptorProto::input_type)
        .collect();
    let mut out = String::from("// This file is @generated by `cargo xtask proto`.\n");
    for file in &all.file {
        for message in &file.message_type {
            let name = format!(".{}.{}", file.package(), message.name());
            let mut fields = String::new();
            for field in &message.field {
                if let Some(shape) = field_shape(message, field)? {
                    let number = field.number();
                    writeln!(fields, "        ({number}, {shape}),")?;
                }
            }
            let request = requests.contains(name.as_str());
            let path = rust_path(&name);
            let shape = shape_name(&name);
            // A static, since a message may hold one of its own kind.
            write!(
                out,
                "static {shape}: Shape = Shape {{\n    size: size_of::<{path}>(),\n    fields: &[\n{fields}    ],\n}};\n\
                 impl Shaped for {path} {{\n    const REQUEST: bool = {request};\n    \
                 fn shape() -> &'static Shape {{\n        &{shape}\n    }}\n}}\n"
            )?;
        }
    }
    Ok(out)
}

/// The shape of a field that holds messages or is a map; `None` for any other.
fn field_shape(
    message: &DescriptorProto,
    field: &FieldDescriptorProto,
) -> anyhow::Result<Option<String>> {
    if field.r#type() != Type::Message {
        return Ok(None);
    }
    let nested = field.type_name().rsplit('.').next().unwrap_or_default();
    let entry = message.nested_type.iter().find(|n| n.name() == nested);
    let Some(entry) = entry else {
        return Ok(Some(format!("&{}", shape_name(field.type_name()))));
    };
    let of = |name: &str| {
        let found = entry.field.iter().find(|f| f.name() == name);
        found.with_context(|| format!("{} is no map's entry", entry.name()))
    };
    let rust = |f: &FieldDescriptorProto| {
        Ok(match f.r#type() {
            Type::String => "String".to_owned(),
            Type::Int64 => "i64".to_owned(),
            Type::Message => rust_path(f.type_name()),
            other => bail!("maps of {other:?} have no shape yet"),
        })
    };
    let (key, value) = (of("key")?, of("value")?);
    let inner = match value.r#type() {
        Type::Message => format!("(2, &{})", shape_name(value.type_name())),
        _ => String::new(),
    };
    let (key, value) = (rust(key)?, rust(value)?);
    Ok(Some(format!(
        "&Shape {{ size: entry_size::<{key}, {value}>(), fields: &[{inner}] }}"
    )))
}

/// `.waggle.session.v1.TaskSpec` as its shape is called.
fn shape_name(name: &str) -> String {
    name.trim_start_matches('.')
        .replace('.', "_")
        .to_ascii_uppercase()
}

/// `.waggle.session.v1.TaskSpec` as the generated modules nest it.
fn rust_path(name: &str) -> String {
    name.trim_start_matches('.').replace('.', "::")
}

fn read_all(dir: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        files.insert(name, std::fs::read_to_string(entry.path())?);
    }
    Ok(files)
}
