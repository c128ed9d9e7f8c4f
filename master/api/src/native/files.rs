//! Files of a task's sandbox.

use serde::{Deserialize, Serialize};

/// What is in a directory of a sandbox, or one file: `GET /waggle/v1/tasks/<id>/files?path=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesView {
    /// The task, with its whole id.
    pub task_id: String,
    /// What was asked for, below the sandbox; empty: the sandbox itself.
    pub path: String,
    /// Whether that is a directory; else `files` is it alone.
    pub directory: bool,
    /// By name.
    pub files: Vec<FileView>,
    /// Whether there is more than is told.
    pub truncated: bool,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileView {
    /// Its name, as text: bytes that are no UTF-8 are replaced.
    pub name: String,
    /// What it is.
    pub kind: FileKind,
    /// Bytes.
    pub size: u64,
    /// Permissions, as `ls -l` has them: `-rw-r--r--`.
    pub mode: String,
    /// Owner, by name where the node knows one.
    pub user: String,
    /// Group, by name where the node knows one.
    pub group: String,
    /// Last change, Unix milliseconds.
    pub modified_ms: u64,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// Anything else; it can't be read.
    Other,
}
