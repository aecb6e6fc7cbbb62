//! The rules of the repository, as a test: who may import whom, file sizes, banned calls, documentation.
//!
//! Reads the tree from disk, skipping what git ignores, and judges it with [`rules::check`].

mod rules;
mod scrub;
mod self_test;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Folders that are built, downloaded or written by runs; git ignores them.
const SKIPPED: [&str; 6] = [".git", "target", ".venv", ".cache", "artefacts", "__pycache__"];

fn read_tree(root: &Path, folder: &Path, tree: &mut rules::Tree) {
    for entry in fs::read_dir(folder).expect("a readable folder").flatten() {
        let path: PathBuf = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().expect("a known type");
        if kind.is_dir() && !SKIPPED.contains(&name.as_str()) {
            read_tree(root, &path, tree);
        } else if kind.is_file() && !name.ends_with(".log") {
            let relative = path.strip_prefix(root).expect("inside the root").to_string_lossy().into_owned();
            // Binary files have no lines to judge.
            tree.insert(relative, fs::read_to_string(&path).unwrap_or_default());
        }
    }
}

#[test]
fn the_repository_keeps_its_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace exists");
    let mut tree = BTreeMap::new();
    read_tree(&root, &root, &mut tree);
    let findings = rules::check(&tree);
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.iter().map(|f| format!("  {f}\n")).collect::<String>());
}
