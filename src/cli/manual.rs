//! Man pages and shell completions, made from the definitions of the commands.

use std::fs;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;
use crate::atomic_file;
use crate::error::{Error, Result};

/// Where each shell looks below `share`.
const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions/amlfs"),
    (Shell::Zsh, "zsh/site-functions/_amlfs"),
    (Shell::Fish, "fish/vendor_completions.d/amlfs.fish"),
];

/// Writes a man page for each command, and the completions, below `share`.
pub fn write_manual(share: &Path) -> Result<()> {
    let pages = share.join("man/man1");
    create(&pages)?;
    clap_mangen::generate_to(Cli::command(), &pages).map_err(|why| Error::file(&pages, why))?;
    for (shell, name) in COMPLETIONS {
        let file = share.join(name);
        create(file.parent().expect("a file of a directory"))?;
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "amlfs", &mut text);
        atomic_file::write_bytes(&file, &text)?;
    }
    Ok(())
}

fn create(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).map_err(|why| Error::file(directory, format!("can't be created: {why}")))
}
