//! What the authors of benchmarks say about them.

use std::fs;
use std::path::Path;

/// A benchmark's people, cameras and counts (torchreid: market1501.py, dukemtmcreid.py, msmt17.py).
pub struct Release {
    /// What the directory's name begins with: its letters and digits, in lower case.
    word: &'static str,
    pub name: &'static str,
    pub last_person: Option<u32>,
    pub cameras: u32,
    /// The counts that `Market::figures` gives for the complete data set.
    pub figures: [usize; 7],
}

const RELEASES: [Release; 2] = [
    Release {
        word: "market1501",
        name: "Market-1501",
        last_person: Some(1501),
        cameras: 6,
        figures: [12_936, 751, 3_368, 750, 19_732, 3_819, 2_798],
    },
    Release {
        word: "dukemtmc",
        name: "DukeMTMC-reID",
        last_person: None,
        cameras: 8,
        figures: [16_522, 702, 2_228, 702, 17_661, 0, 0],
    },
];

/// Known by its lists, not by its name.
pub const MSMT17: Release = Release {
    word: "msmt17",
    name: "MSMT17",
    last_person: None,
    cameras: 15,
    figures: [32_621, 1_041, 11_659, 3_060, 82_161, 0, 0],
};

impl Release {
    /// The release that a directory's name promises.
    pub fn of(root: &Path) -> Option<&'static Release> {
        // a path like . has no name of its own
        let named = root.file_name().map(ToOwned::to_owned);
        let name = named.or_else(|| Some(fs::canonicalize(root).ok()?.file_name()?.to_owned()))?;
        let name: String =
            name.to_string_lossy().to_lowercase().chars().filter(|letter| letter.is_alphanumeric()).collect();
        RELEASES.iter().find(|release| name.starts_with(release.word))
    }

    /// Errors: a person or a camera that it does not have.
    pub fn check(&self, person: i32, camera: u32) -> std::result::Result<(), String> {
        let Release { name, last_person, cameras, .. } = self;
        if let Some(last) = last_person.filter(|&last| person > last as i32) {
            return Err(format!("{name} has no person {person}, only up to {last}"));
        }
        if !(1..=*cameras).contains(&camera) {
            return Err(format!("{name} has no camera {camera}, only 1 to {cameras}"));
        }
        Ok(())
    }
}
