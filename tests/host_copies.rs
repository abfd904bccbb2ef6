//! In a training step the host waits for no GPU: nothing but `device::send` moves numbers between host and device.

use std::collections::BTreeSet;
use std::path::Path;

use syn::visit::{self, Visit};
use walkdir::WalkDir;

/// What a training step runs, below src/.
const STEP: [&str; 8] = [
    "train",
    "model",
    "loss/head.rs",
    "loss/unified.rs",
    "loss/derivatives.rs",
    "loss/fixed.rs",
    "loss/of_classes.rs",
    "loss/triplet.rs",
];

/// What waits for a device in tch.
const WAITING: [&str; 12] = [
    "to_device",
    "copy_data",
    "double_value",
    "int64_value",
    "try_from",
    "try_into",
    "f_copy_data",
    "is_nonzero",
    "nonzero",
    "masked_select",
    "equal",
    "allclose",
];

/// (file, function, what) that may: none of it is run in a step.
const ALLOWED: &[(&str, &str, &str)] = &[
    ("loss/unified.rs", "new", "to_device"), // once an epoch
    ("loss/of_classes.rs", "tensor", "to_device"),
    ("model/weights.rs", "new", "to_device"),
    ("train/optimizer.rs", "new", "to_device"),
    ("train/replicas.rs", "new", "to_device"),
    ("train/replicas.rs", "pull", "to_device"), // for a report
    ("train/trainer.rs", "epoch", "to_device"), // before its first step
    ("train/trainer.rs", "epoch", "try_from"),  // after its last one, or at a pause
];

#[derive(Default)]
struct Waits {
    function: String,
    found: BTreeSet<(String, String)>,
}

impl Waits {
    fn called(&mut self, name: &syn::Ident) {
        if WAITING.contains(&name.to_string().as_str()) {
            self.found.insert((self.function.clone(), name.to_string()));
        }
    }
}

impl<'ast> Visit<'ast> for Waits {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        let of_tests = |attribute: &syn::Attribute| attribute.path().is_ident("cfg");
        if !module.attrs.iter().any(of_tests) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.function = function.sig.ident.to_string();
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.function = function.sig.ident.to_string();
        visit::visit_item_fn(self, function);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        self.called(&call.method);
        visit::visit_expr_method_call(self, call);
    }

    fn visit_expr_path(&mut self, path: &'ast syn::ExprPath) {
        if let Some(last) = path.path.segments.last() {
            self.called(&last.ident);
        }
        visit::visit_expr_path(self, path);
    }
}

fn waits(source: &str) -> BTreeSet<(String, String)> {
    let mut waits = Waits::default();
    waits.visit_file(&syn::parse_file(source).expect("it compiles"));
    waits.found
}

#[test]
fn a_training_step_waits_for_no_device() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeSet::new();
    for part in STEP {
        for entry in WalkDir::new(src.join(part)) {
            let path = entry.unwrap().into_path();
            let of_tests = path.ends_with("test_numbers.rs");
            if !of_tests && path.extension().is_some_and(|extension| extension == "rs") {
                let file = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
                let source = std::fs::read_to_string(&path).unwrap();
                found.extend(waits(&source).into_iter().map(|(function, what)| (file.clone(), function, what)));
            }
        }
    }
    let allowed = ALLOWED.iter().map(|&(file, function, what)| (file.into(), function.into(), what.into())).collect();
    assert_eq!(found, allowed, "found on the left, ALLOWED on the right");
}

#[test]
fn waiting_is_seen_wherever_it_is_written() {
    let source = "
        impl A { fn step(&self) { let f = |x: Tensor| f64::try_from(x); self.loss.to_device(Device::Cpu); } }
        fn free(x: &Tensor) -> f64 { g(Tensor::double_value) }
        #[cfg(test)] mod tests { fn test() { x.to_device(Device::Cpu); } }";
    let pair = |function: &str, what: &str| (function.to_owned(), what.to_owned());
    let expected = [pair("free", "double_value"), pair("step", "to_device"), pair("step", "try_from")];
    assert_eq!(waits(source), expected.into());
}
