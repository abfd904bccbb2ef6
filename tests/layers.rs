//! The rule of docs/architecture.md: imports point down the list of modules, never up.

use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use walkdir::WalkDir;

/// Every module of src/, from the top: each may use itself and those after it.
const LAYERS: &[&str] = &[
    "main",
    "commands",
    "process",
    "cli",
    "run_directory",
    "terminal",
    "pace",
    "runs",
    "figures",
    "event_file",
    "search",
    "task",
    "embedding",
    "eval",
    "train",
    "model",
    "pretrained",
    "data",
    "loss_file",
    "checkpoint",
    "hdf5_file",
    "device",
    "tensor_memory",
    "stop",
    "config",
    "policy",
    "loss",
    "mapped_file",
    "comm",
    "lookout",
    "run_lock",
    "atomic_file",
    "rng",
];
/// Below all of them: plain state and errors.
const GROUND: [&str; 2] = ["state", "error"];

/// The modules of this crate that a file's code names, with `crate::` in front (`amlfs::` in main.rs).
#[derive(Default)]
struct Named(Vec<String>);

impl Named {
    fn tree(&mut self, tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) => self.0.push(path.ident.to_string()),
            syn::UseTree::Name(name) => self.0.push(name.ident.to_string()),
            syn::UseTree::Rename(rename) => self.0.push(rename.ident.to_string()),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(tree)),
            syn::UseTree::Glob(_) => panic!("use crate::* hides what is used"),
        }
    }
}

fn is_crate(name: &str) -> bool {
    name == "crate" || name == "amlfs"
}

impl<'ast> Visit<'ast> for Named {
    fn visit_use_path(&mut self, path: &'ast syn::UsePath) {
        if is_crate(&path.ident.to_string()) {
            self.tree(&path.tree);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 && is_crate(&path.segments[0].ident.to_string()) {
            self.0.push(path.segments[1].ident.to_string());
        }
        visit::visit_path(self, path);
    }

    /// What is inside of `format!(...)` and the like is no syntax tree yet.
    fn visit_macro(&mut self, found: &'ast syn::Macro) {
        self.tokens(found.tokens.clone());
        visit::visit_macro(self, found);
    }
}

impl Named {
    fn tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for (i, token) in tokens.iter().enumerate() {
            match (token, tokens.get(i + 3)) {
                (TokenTree::Group(group), _) => self.tokens(group.stream()),
                (TokenTree::Ident(root), Some(TokenTree::Ident(module))) if is_crate(&root.to_string()) => {
                    self.0.push(module.to_string());
                }
                _ => {}
            }
        }
    }
}

fn depth(module: &str) -> Option<usize> {
    LAYERS.iter().chain(&GROUND).position(|&layer| layer == module)
}

/// `module`'s imports that point up, or at a module that is not in the table.
fn upward(module: &str, source: &str) -> Vec<String> {
    let mut named = Named::default();
    named.visit_file(&syn::parse_file(source).expect("it compiles"));
    let own = depth(module).unwrap_or_else(|| panic!("{module} has no place in LAYERS"));
    named.0.retain(|used| used != module && depth(used).is_none_or(|depth| depth <= own));
    named.0
}

#[test]
fn imports_point_down_the_list_of_modules() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    let mut files = 0;
    for entry in WalkDir::new(&src) {
        let entry = entry.unwrap();
        let below = entry.path().strip_prefix(&src).unwrap();
        if entry.path().extension().is_none_or(|extension| extension != "rs") || below == Path::new("lib.rs") {
            continue;
        }
        files += 1;
        let first = below.iter().next().unwrap().to_str().unwrap();
        let module = first.strip_suffix(".rs").unwrap_or(first);
        let source = std::fs::read_to_string(entry.path()).unwrap();
        wrong.extend(upward(module, &source).iter().map(|used| format!("src/{} uses {used}", below.display())));
    }
    assert!(files > 50, "only {files} files in {}", src.display());
    assert!(wrong.is_empty(), "imports that point up the list:\n{}", wrong.join("\n"));
}

#[test]
fn an_import_that_points_up_is_found_in_every_form() {
    for source in [
        "use crate::task::Task;",
        "use crate::{error::Error, task};",
        "fn f() { crate::task::open(); }",
        "mod tests { use crate::task; }",
        "fn f() -> Box<dyn crate::task::Task> { loop {} }",
        "fn f() { println!(\"{}\", g(crate::task::NAME)); }",
    ] {
        assert_eq!(upward("train", source), ["task"], "{source}");
    }
    assert_eq!(upward("train", "use crate::unheard_of::Thing;"), ["unheard_of"]);
    assert!(upward("train", "use crate::data::Batch; use crate::error::Result; use super::Optimizer;").is_empty());
}
