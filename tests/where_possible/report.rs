//! `amlfs report`, as a browser shows it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Possible;
use crate::support::{NATURAL, SMALL, amlfs, assert_code, for_training, text};

/// Measures the page: a line for each fault, between marks.
const MEASURE: &str = r#"
<script>
addEventListener("load", () => {
  const faults = [];
  if (document.documentElement.scrollWidth > innerWidth) faults.push("wider than the window");
  const figures = document.querySelectorAll("figure");
  for (const figure of figures) {
    const svg = figure.querySelector("svg"), fault = what => faults.push(figure.id + ": " + what);
    if (!svg) { fault("no picture"); continue; }
    const title = document.getElementById(svg.getAttribute("aria-labelledby"));
    if (!title || !title.textContent) fault("no title for readers of screens");
    if (!figure.querySelector("figcaption").textContent) fault("no caption");
    const texts = [...svg.querySelectorAll("text")];
    if (!texts.some(text => text.textContent.trim() == title.textContent)) fault("no title");
    if (texts.length < 6) fault("axes without labels");
    const curves = svg.querySelectorAll("polyline, polygon, circle, rect, line, path");
    if (curves.length < 3) fault("nothing is drawn");
    const frame = svg.getBoundingClientRect();
    for (const part of [...texts, ...curves]) {
      const box = part.getBoundingClientRect(), slack = 1.5;
      if (box.left < frame.left - slack || box.right > frame.right + slack || box.top < frame.top - slack ||
          box.bottom > frame.bottom + slack) fault("outside of its frame: " + (part.textContent.trim() || part.tagName));
    }
  }
  const pre = document.createElement("pre");
  pre.textContent = "MEASURED " + figures.length + " figures" + faults.map(fault => "\n" + fault).join("") + "\nEND";
  document.body.append(pre);
});
</script>"#;

fn chromium() -> Possible<&'static str> {
    let found = ["chromium", "chromium-browser", "google-chrome"];
    let works = |name: &&&str| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
    found.iter().find(works).copied().ok_or_else(|| "no chromium".into())
}

/// What a browser of that width in pixels finds of the page, and what it wrote.
fn measured(browser: &str, page: &Path, width: usize, profile: &Path) -> (String, String) {
    let mut command = Command::new("timeout");
    command.args([
        "120",
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--dump-dom",
    ]);
    command.arg(format!("--window-size={width},2000")).arg(format!("--user-data-dir={}", profile.display()));
    let output = command.arg(page).output().expect("timeout starts"); // more than a pipe holds
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = shown.split("<pre>MEASURED ").nth(1).and_then(|rest| rest.split("\nEND").next());
    (found.unwrap_or_else(|| panic!("not measured: {}", text(&output))).to_owned(), text(&output))
}

fn runs(directory: &Path) -> Vec<PathBuf> {
    let out = |name: &str| directory.join(name);
    for seed in ["1", "2"] {
        let (search, softmax) = (out(&format!("search-{seed}")), out(&format!("softmax-{seed}")));
        let search = [SMALL, NATURAL, &["--seed", seed, "--out", search.to_str().unwrap()]].concat();
        assert_code(&amlfs(&search), 0);
        let settings = for_training(&[SMALL, NATURAL].concat());
        let softmax =
            [&["train", "--loss=softmax"], &settings[..], &["--seed", seed, "--out", softmax.to_str().unwrap()]];
        assert_code(&amlfs(&softmax.concat()), 0);
    }
    ["search-1", "search-2", "softmax-1", "softmax-2"].map(out).into()
}

pub fn every_figure_is_labelled_and_inside_its_frame_on_desks_and_phones() -> Possible {
    let browser = chromium()?;
    let directory = tempfile::tempdir().unwrap();
    let (page, figures) = (directory.path().join("report.html"), directory.path().join("figures"));
    let runs = runs(directory.path());
    let mut command = vec!["report", "--out", page.to_str().unwrap(), "--figures", figures.to_str().unwrap()];
    command.extend(runs.iter().map(|run| run.to_str().unwrap()));
    assert_code(&amlfs(&command), 0);

    let html = std::fs::read_to_string(&page).unwrap();
    let elsewhere = ["<script", "<link", "<img", "url(", "src="];
    assert!(elsewhere.iter().all(|part| !html.contains(part)), "the page needs nothing but itself");
    let count = html.matches("<figure id=").count();
    assert!(count >= 9, "{count} figures");
    for ending in ["svg", "png", "csv"] {
        let written = std::fs::read_dir(&figures).unwrap();
        let written =
            written.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|found| found == ending));
        assert_eq!(written.count(), count, "{ending}");
    }
    let measure = directory.path().join("measure.html");
    std::fs::write(&measure, html.replace("</body>", &format!("{MEASURE}</body>"))).unwrap();
    for width in [1280, 500] {
        let (found, said) = measured(browser, &measure, width, &directory.path().join("profile"));
        assert_eq!(found, format!("{count} figures"), "at {width} pixels");
        assert!(!said.contains(":CONSOLE"), "{said}");
    }
    Ok(())
}
