//! `amlfs table`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

#[derive(Args)]
pub struct TableArguments {
    /// Which table of the paper: 2 CIFAR-10, 3 MegaFace, 4 Market-1501, 5 DukeMTMC-reID, 6 the number of samples, 7 of
    /// intervals
    #[arg(value_name = "TABLE", value_parser = clap::value_parser!(u8).range(2..=7))]
    pub number: u8,
    /// Directories of runs, or checkpoints; those with the same settings and other seeds become one row. For table 3 a
    /// run's directory holds megaface.json, what amlfs evaluate megaface --json printed; for re-ranked figures of tables 4
    /// and 5 reid.json, from amlfs evaluate reid --rerank --json
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<PathBuf>,
    /// How to print it
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = TableFormat::Text)]
    pub format: TableFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TableFormat {
    /// Aligned columns, with footnotes
    Text,
    /// Numbers for programs
    Csv,
    Markdown,
    /// A tabular, with booktabs' rules
    Latex,
}
