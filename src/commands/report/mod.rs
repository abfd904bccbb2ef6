//! `amlfs report`: what runs found, as one page without scripts.

mod activations;
mod confusion;
mod loss_figures;
mod search_figures;
#[cfg(test)]
mod tests;
mod verdict;

use std::collections::BTreeSet;

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment};
use serde::Serialize;

use crate::atomic_file;
use crate::cli::ReportArguments;
use crate::error::{Error, Result};
use crate::figures::Figure;
use crate::runs::{Arm, Comparison, Group, Run, compare};
use crate::terminal;
use verdict::{Row, Verdict};

/// Everything that the template shows.
#[derive(Serialize)]
struct Page {
    version: &'static str,
    date: String,
    /// What was run, in a sentence.
    sentence: String,
    left_out: Vec<String>,
    comparisons: Vec<ComparisonPart>,
    /// Of the first run of each group.
    configurations: Vec<(String, String)>,
}

#[derive(Serialize)]
struct ComparisonPart {
    /// The conditions, where there are several comparisons.
    heading: String,
    #[serde(flatten)]
    verdict: Verdict,
    figures: Vec<Shown>,
    searches: Vec<SearchPart>,
}

#[derive(Serialize)]
struct SearchPart {
    heading: String,
    sentences: Vec<String>,
    figures: Vec<Shown>,
    time: Vec<Row>,
}

/// A figure on the page.
#[derive(Serialize)]
struct Shown {
    name: String,
    title: String,
    svg: String,
    caption: String,
}

pub fn run(arguments: &ReportArguments) -> Result<()> {
    let (runs, left_out) = Run::open_all(&arguments.runs)?;
    let comparisons = compare(&runs);
    let mut figures = Figures::default();
    let parts = comparisons.iter().map(|comparison| comparison_part(comparison, arguments, &mut figures)).collect();
    let page = Page {
        version: env!("CARGO_PKG_VERSION"),
        date: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
        sentence: verdict::sentence(&runs, &comparisons),
        left_out,
        comparisons: parts,
        configurations: configurations(&comparisons),
    };
    if let Some(directory) = &arguments.figures {
        figures.all.iter().try_for_each(|figure| figure.write(directory))?;
    }
    atomic_file::write_bytes(&arguments.out, html(&page)?.as_bytes())?;
    let (count, runs) = (figures.all.len(), runs.len());
    terminal::line(&format!("{}: {count} figures of {runs} run(s)", arguments.out.display()));
    page.left_out.iter().for_each(|why| log::warn!("left out: {why}"));
    Ok(())
}

fn html(page: &Page) -> Result<String> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    let rendered = environment.render_str(include_str!("page.html"), Serde(page));
    rendered.map_err(|why| Error::failed(format!("the page can't be made: {why:#}")))
}

fn comparison_part(comparison: &Comparison, arguments: &ReportArguments, figures: &mut Figures) -> ComparisonPart {
    let several = comparison.groups.len() > 1 || comparison.groups.iter().any(|group| group.runs.len() > 1);
    let mut shown = Vec::new();
    if several {
        shown.extend(figures.add(verdict::results_figure(comparison), verdict::RESULTS));
    }
    shown.extend(figures.add(search_figures::rewards_of_all(comparison), search_figures::REWARDS_OF_ALL));
    for (figure, caption) in comparison.groups.iter().filter_map(confusion::figure) {
        shown.extend(figures.add(figure, caption));
    }
    let searches = comparison.groups.iter().filter(|group| searches(group));
    ComparisonPart {
        heading: comparison.conditions.join(", "),
        verdict: verdict::verdict(comparison),
        searches: searches.map(|group| search_part(group, arguments, figures)).collect(),
        figures: shown,
    }
}

/// Whether the group has a distribution of losses to show.
fn searches(group: &Group) -> bool {
    matches!(group.runs[0].arm, Arm::Search(_) | Arm::Fixed)
}

fn search_part(group: &Group, arguments: &ReportArguments, figures: &mut Figures) -> SearchPart {
    let mut shown = Vec::new();
    for (figure, caption) in search_figures::all(group).into_iter().chain(loss_figures::all(group)) {
        shown.extend(figures.add(figure, &caption));
    }
    let mut sentences = search_figures::sentences(group);
    if arguments.activations {
        match activations::figure(group.runs[0], arguments.data.as_deref()) {
            Ok(figure) => shown.extend(figures.add(figure, activations::CAPTION)),
            Err(why) => sentences.push(format!("How the loss pulls at examples is not shown: {why}.")),
        }
    }
    SearchPart { heading: group.label.clone(), sentences, time: search_figures::time(group), figures: shown }
}

fn configurations(comparisons: &[Comparison]) -> Vec<(String, String)> {
    let groups = comparisons.iter().flat_map(|comparison| &comparison.groups);
    groups
        .map(|group| (group.runs[0].path.display().to_string(), group.runs[0].checkpoint.info.config.clone()))
        .collect()
}

/// The figures of a page, each under a name of its own.
#[derive(Default)]
struct Figures {
    all: Vec<Figure>,
    names: BTreeSet<String>,
}

impl Figures {
    /// Nothing for a figure without points.
    fn add(&mut self, mut figure: Figure, caption: &str) -> Option<Shown> {
        if figure.is_empty() {
            return None;
        }
        let first = figure.name.clone();
        let mut number = 1;
        while !self.names.insert(figure.name.clone()) {
            number += 1;
            figure.name = format!("{first}-{number}");
        }
        let Figure { name, title, .. } = figure.clone();
        let svg = inline(&figure);
        self.all.push(figure);
        Some(Shown { name, title, svg, caption: caption.into() })
    }
}

/// The SVG as an element of a page that scales with it and is told to those who can't see it.
fn inline(figure: &Figure) -> String {
    let svg = figure.svg();
    let start = svg.find("<svg ").unwrap_or(0);
    svg[start..].replacen("<svg ", &format!("<svg role=\"img\" aria-labelledby=\"{}-title\" ", figure.name), 1)
}
