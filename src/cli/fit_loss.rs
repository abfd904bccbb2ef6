//! `amlfs fit-loss`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;

use crate::loss::{FIXED_LOSSES, HeadKind, SpaceKind};

#[derive(Args)]
pub struct FitLossArguments {
    /// The known loss; without a name: all of them, with their errors
    #[arg(value_name = "NAME", value_parser = fixed_losses())]
    pub name: Option<String>,
    /// Its margin, as loss.margin; default: the loss's own
    #[arg(long, value_name = "X", requires = "name")]
    pub margin: Option<f64>,
    /// What theta is: lines, as --search paper has it, or derivatives, as --search robust; default: both, one after the
    /// other
    #[arg(long, value_name = "SPACE", value_enum)]
    pub space: Option<SpaceKind>,
    /// How many intervals t and tau have, M
    #[arg(long, value_name = "M", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub intervals: u16,
    /// The head that goes into the file; default: the one that the loss was published with
    #[arg(long, value_name = "HEAD", value_enum, requires = "out")]
    pub head: Option<HeadKind>,
    /// More for the file, which a search then takes from it: loss.scale, loss.tau_weights; or loss.w_max, the upper bound of
    /// weights; repeatable
    #[arg(long, value_name = "KEY=VALUE", requires = "name")]
    pub set: Vec<String>,
    /// The .json file to write, for --init-mu and --replay; it must not be there yet
    #[arg(long, value_name = "FILE", requires_all = ["name", "space"])]
    pub out: Option<PathBuf>,
}

fn fixed_losses() -> PossibleValuesParser {
    let known = FIXED_LOSSES.iter().filter(|kind| kind.by_default().is_in_the_form());
    PossibleValuesParser::new(known.map(|kind| kind.name))
}
