//! Definitions in files: JSON or YAML, read into JSON.

use std::{io::Read, path::Path};

use serde_json::Value;

use crate::error::{CliError, usage};

/// Longest definition that is sent; the server's limit is 1 MiB.
const MAX_DEFINITION_BYTES: u64 = 2 << 20;

/// Reads a definition as JSON text; `-` is standard input. YAML is what is in `*.yaml` and `*.yml`, and what does not
/// begin as a JSON object or list; of JSON, the text stays as it is.
pub fn read(file: &Path) -> Result<String, CliError> {
    let shown = file.display();
    let mut text = String::new();
    let read = |source: &mut dyn Read, text: &mut String| {
        source.take(MAX_DEFINITION_BYTES + 1).read_to_string(text)
    };
    let result = if file == Path::new("-") {
        read(&mut std::io::stdin().lock(), &mut text)
    } else {
        std::fs::File::open(file).and_then(|mut f| read(&mut f, &mut text))
    };
    let n = result.map_err(|e| usage(format!("{shown}: {e}")))?;
    if n as u64 > MAX_DEFINITION_BYTES {
        let rule = format!("must be at most {MAX_DEFINITION_BYTES} bytes");
        return Err(usage(format!("{shown}: {rule}")));
    }
    json_text(text, extension(file)).map_err(|e| usage(format!("{shown}: {e}")))
}

/// The same, decoded.
pub fn read_value(file: &Path) -> Result<Value, CliError> {
    let text = read(file)?;
    serde_json::from_str(&text).map_err(|e| usage(format!("{}: not JSON: {e}", file.display())))
}

fn extension(file: &Path) -> &str {
    file.extension().and_then(|e| e.to_str()).unwrap_or("")
}

fn json_text(text: String, extension: &str) -> Result<String, String> {
    let yaml = match extension {
        "yaml" | "yml" => true,
        "json" => false,
        _ => !text.trim_start().starts_with(['{', '[']),
    };
    if !yaml {
        serde_json::from_str::<Value>(&text).map_err(|e| format!("not JSON: {e}"))?;
        return Ok(text);
    }
    // Its own budget bounds aliases and depth.
    let value: Value =
        serde_saphyr::from_str(&text).map_err(|e| format!("neither JSON nor YAML: {e}"))?;
    if !value.is_object() && !value.is_array() {
        return Err("must be a mapping or a list".to_owned());
    }
    Ok(value.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str, extension: &str) -> Result<Value, String> {
        let text = json_text(text.to_owned(), extension)?;
        Ok(serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn json_and_yaml_say_the_same() {
        let want = json!({
            "id": "/web", "cmd": "nginx -g 'daemon off;'", "cpus": 0.5, "instances": 2,
            "env": {"A": "yes", "B": "1"}, "requirePorts": true,
            "portDefinitions": [{"port": 0, "labels": {"VIP_0": "/web:80"}}],
        });
        let yaml = r#"
# A comment.
id: /web
cmd: nginx -g 'daemon off;'
cpus: 0.5
instances: 2
requirePorts: true
env: {A: "yes", B: "1"}
portDefinitions:
  - port: 0
    labels:
      VIP_0: /web:80
"#;
        assert_eq!(read(yaml, "yml").unwrap(), want);
        assert_eq!(read(yaml, "").unwrap(), want, "it does not look like JSON");
        assert_eq!(read(&want.to_string(), "json").unwrap(), want);
        assert_eq!(read(&want.to_string(), "yaml").unwrap(), want);
    }

    #[test]
    fn what_is_neither_is_refused_with_its_place() {
        for (text, extension, want) in [
            ("{\"id\"", "json", "not JSON: EOF"),
            ("id: /web", "json", "not JSON"),
            ("id: [", "yaml", "line"),
            ("id: /a\nid: /b", "yaml", "dup"),
            ("just words", "", "must be a mapping or a list"),
            ("", "yaml", "must be a mapping or a list"),
        ] {
            let err = read(text, extension).unwrap_err();
            assert!(
                err.to_lowercase().contains(&want.to_lowercase()),
                "{text:?}: {err}"
            );
        }
        // Aliases of aliases of aliases.
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let refs = vec![format!("*a{}", i - 1); 10].join(", ");
            bomb.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
        }
        assert!(read(&bomb, "yaml").is_err());
    }
}
