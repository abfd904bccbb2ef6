//! The tables of AM-LFS (ICCV 2019), as printed. Figures are in per cent; "": not given.

pub struct PaperTable {
    pub number: u8,
    pub title: &'static str,
    /// What tells rows apart.
    pub keys: &'static [&'static str],
    pub metrics: &'static [&'static str],
    pub rows: &'static [PaperRow],
}

/// One for each key, and one for each metric.
pub struct PaperRow(pub &'static [&'static str], pub &'static [&'static str]);

pub const SOFTMAX: &str = "softmax (CE)";
pub const SEARCH: &str = "AM-LFS";
pub const MARKET: &str = "Market-1501";
pub const DUKE: &str = "DukeMTMC-reID";
const PEOPLE: &[&str] = &["mAP", "rank1", "rank5"];

#[rustfmt::skip]
pub const TABLES: &[PaperTable] = &[
    PaperTable {
        number: 2,
        title: "Top-1 test error (%) on CIFAR-10 with ResNet-20, by label noise",
        keys: &["noise", "method"],
        metrics: &["error"],
        rows: &[
            PaperRow(&["0 %", SOFTMAX], &["8.75"]),
            PaperRow(&["0 %", "L2T-DLF"], &["7.63"]),
            PaperRow(&["0 %", SEARCH], &["6.92"]),
            PaperRow(&["10 %", SOFTMAX], &["12.05"]),
            PaperRow(&["10 %", SEARCH], &["10.05"]),
            PaperRow(&["20 %", SOFTMAX], &["15.05"]),
            PaperRow(&["20 %", SEARCH], &["12.73"]),
        ],
    },
    PaperTable {
        number: 3,
        title: "MegaFace rank-1 (%) among a million distractors, 20 layers, trained on CASIA-WebFace",
        keys: &["method"],
        metrics: &["rank1"],
        rows: &[
            PaperRow(&["SphereFace"], &["67.4"]),
            PaperRow(&["CosineFace"], &["72.5"]),
            PaperRow(&["ArcFace"], &["72.4"]),
            PaperRow(&[SEARCH], &["73.5"]),
        ],
    },
    PaperTable {
        number: 4,
        title: "Market-1501 (%), ResNet-50; RK: re-ranked",
        keys: &["method"],
        metrics: PEOPLE,
        rows: &[
            PaperRow(&["MLFN"], &["74.3", "90.0", ""]),
            PaperRow(&["HA-CNN"], &["75.7", "91.2", ""]),
            PaperRow(&["DuATM"], &["76.6", "91.4", "97.1"]),
            PaperRow(&["Part-aligned"], &["79.6", "91.7", "96.9"]),
            PaperRow(&["PCB"], &["77.4", "92.3", "97.2"]),
            PaperRow(&["SphereReID"], &["83.6", "94.4", "98.0"]),
            PaperRow(&["SFT"], &["82.7", "93.4", ""]),
            PaperRow(&["MGN"], &["86.9", "95.7", ""]),
            PaperRow(&["MGN(RK)"], &["94.2", "96.6", ""]),
            PaperRow(&["SphereReID + AM-LFS"], &["84.4", "95.0", "98.1"]),
            PaperRow(&["SFT + AM-LFS"], &["83.2", "93.6", "97.9"]),
            PaperRow(&["MGN + AM-LFS"], &["88.1", "95.8", "98.4"]),
            PaperRow(&["MGN(RK) + AM-LFS"], &["94.6", "96.1", "98.4"]),
        ],
    },
    PaperTable {
        number: 5,
        title: "DukeMTMC-reID (%), ResNet-50; RK: re-ranked",
        keys: &["method"],
        metrics: PEOPLE,
        rows: &[
            PaperRow(&["PSE"], &["62.0", "79.8", "89.7"]),
            PaperRow(&["MLFN"], &["62.8", "81.0", ""]),
            PaperRow(&["HA-CNN"], &["63.8", "80.5", ""]),
            PaperRow(&["DuATM"], &["64.6", "81.8", "90.2"]),
            PaperRow(&["Part-aligned"], &["69.3", "84.4", "92.2"]),
            PaperRow(&["PCB+RPP"], &["69.2", "83.3", ""]),
            PaperRow(&["SphereReID"], &["68.5", "83.9", "90.6"]),
            PaperRow(&["SFT"], &["73.2", "86.9", "93.9"]),
            PaperRow(&["MGN"], &["78.4", "88.7", ""]),
            PaperRow(&["MGN(RK)"], &["88.6", "90.9", ""]),
            PaperRow(&["SphereReID + AM-LFS"], &["69.8", "84.3", "92.0"]),
            PaperRow(&["SFT + AM-LFS"], &["73.8", "87.0", "95.1"]),
            PaperRow(&["MGN + AM-LFS"], &["80.0", "89.9", "95.2"]),
            PaperRow(&["MGN(RK) + AM-LFS"], &["90.1", "92.4", "95.7"]),
        ],
    },
    PaperTable {
        number: 6,
        title: "mAP (%) of SphereReID + AM-LFS, by the number of samples B",
        keys: &["data set", "B"],
        metrics: &["mAP"],
        rows: &[
            PaperRow(&[MARKET, "4"], &["83.6"]),
            PaperRow(&[MARKET, "8"], &["83.8"]),
            PaperRow(&[MARKET, "16"], &["84.2"]),
            PaperRow(&[MARKET, "32"], &["84.4"]),
            PaperRow(&[DUKE, "4"], &["68.4"]),
            PaperRow(&[DUKE, "8"], &["68.9"]),
            PaperRow(&[DUKE, "16"], &["69.7"]),
            PaperRow(&[DUKE, "32"], &["69.8"]),
        ],
    },
    PaperTable {
        number: 7,
        title: "mAP (%) of SphereReID + AM-LFS, by the number of intervals M",
        keys: &["data set", "M"],
        metrics: &["mAP"],
        rows: &[
            PaperRow(&[MARKET, "3"], &["83.8"]),
            PaperRow(&[MARKET, "6"], &["84.4"]),
            PaperRow(&[MARKET, "10"], &["84.2"]),
            PaperRow(&[DUKE, "3"], &["68.6"]),
            PaperRow(&[DUKE, "6"], &["69.8"]),
            PaperRow(&[DUKE, "10"], &["69.5"]),
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_cell_for_each_key_and_metric_and_figures_are_percentages() {
        for table in TABLES {
            for PaperRow(keys, figures) in table.rows {
                assert_eq!((keys.len(), figures.len()), (table.keys.len(), table.metrics.len()), "{keys:?}");
                let valid = |figure: &str| figure.is_empty() || (1.0..100.0).contains(&figure.parse::<f64>().unwrap());
                assert!(figures.iter().all(|figure| valid(figure)), "{keys:?}: {figures:?}");
            }
        }
    }
}
