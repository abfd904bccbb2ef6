//! Links libtorch so that the program finds it without LD_LIBRARY_PATH and keeps CUDA where libtorch has it, compiles what
//! needs its headers, and records the commit.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    // torch-sys publishes where it found libtorch (LIBTORCH, LIBTORCH_USE_PYTORCH or the system).
    let lib = std::env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys tells where libtorch is");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    // Nothing in the program refers to a symbol of libtorch_cuda, so a linker that drops unused libraries would
    // leave a program that silently computes on the CPU (tch-rs#907). libtorch.so pulls libtorch_cuda.so in.
    if Path::new(&lib).join("libtorch_cuda.so").exists() {
        println!("cargo:rustc-link-arg=-Wl,--no-as-needed");
        println!("cargo:rustc-link-arg=-ltorch");
    }
    compile_autograd(Path::new(&lib));
    let sha1 = Command::new("git")
        .args(["rev-parse", "HEAD"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .unwrap_or_else(|| "unknown".into());
    println!("cargo:rustc-env=AMLFS_GIT_SHA1={}", sha1.trim());
    let version = libtorch_version(Path::new(&lib)).unwrap_or_else(|| "2.13".into()); // what tch 0.26 binds
    println!("cargo:rustc-env=AMLFS_LIBTORCH={version}");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=.git/HEAD");
    println!("cargo:rerun-if-changed=.git/logs/HEAD");
}

/// The operations that have a gradient of their own: as torch-sys compiles its part.
fn compile_autograd(lib: &Path) {
    let source = "src/model/norm_relu/autograd.cpp";
    let variable = |name: &str| {
        println!("cargo:rerun-if-env-changed={name}");
        std::env::var(name).ok()
    };
    let include = variable("LIBTORCH_INCLUDE").map_or_else(|| lib.join(".."), PathBuf::from).join("include");
    let abi = variable("LIBTORCH_CXX11_ABI").unwrap_or_else(|| "1".into());
    println!("cargo:rerun-if-changed={source}");
    cc::Build::new()
        .cpp(true)
        .file(source)
        .include(include.join("torch/csrc/api/include"))
        .include(include)
        .warnings(false)
        // libtorch's headers share its threads by OpenMP
        .flags(["-std=c++17", "-fopenmp"])
        .define("_GLIBCXX_USE_CXX11_ABI", &*abi)
        .compile("amlfs_autograd");
    println!("cargo:rustc-link-lib=gomp");
}

/// With its CUDA, "2.13.0+cu130": an unpacked libtorch has it in build-version, Python's torch in version.py.
fn libtorch_version(lib: &Path) -> Option<String> {
    let read = |name: &str| std::fs::read_to_string(lib.join("..").join(name)).ok();
    let of_python = || {
        let text = read("version.py")?;
        let line = text.lines().find(|line| line.starts_with("__version__"))?;
        line.split(['\'', '"']).nth(1).map(str::to_owned)
    };
    read("build-version").map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).or_else(of_python)
}
