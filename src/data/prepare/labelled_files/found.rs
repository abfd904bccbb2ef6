//! What was found, in as few bytes as ten million files leave.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::data::packed::Subset;

/// Files with their classes, by number.
#[derive(Default)]
pub struct Found {
    /// All paths below the root, one after the other, and where each ends.
    paths: Vec<u8>,
    ends: Vec<u64>,
    classes: Vec<u32>,
    subsets: Vec<Subset>,
    /// Names of the classes, in the order in which they were met; `sort_classes` gives another.
    pub names: Vec<String>,
    numbers: HashMap<String, u32>,
    /// What is no image of a class: (path, why).
    pub ignored: Vec<(String, String)>,
    /// Directories of classes without images.
    pub empty: Vec<String>,
}

impl Found {
    pub fn add(&mut self, path: &Path, class: &str, subset: Subset) {
        let class = match self.numbers.get(class) {
            Some(&number) => number,
            None => {
                let number = self.names.len() as u32;
                self.names.push(class.to_owned());
                self.numbers.insert(class.to_owned(), number);
                number
            }
        };
        self.paths.extend(path.as_os_str().as_bytes());
        self.ends.push(self.paths.len() as u64);
        self.classes.push(class);
        self.subsets.push(subset);
    }

    pub fn ignore(&mut self, path: &Path, why: impl Into<String>) {
        self.ignored.push((path.to_string_lossy().into_owned(), why.into()));
    }

    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// Below the root.
    pub fn path(&self, index: usize) -> &Path {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        Path::new(OsStr::from_bytes(&self.paths[start as usize..self.ends[index] as usize]))
    }

    pub fn class(&self, index: usize) -> u32 {
        self.classes[index]
    }

    pub fn subset(&self, index: usize) -> Subset {
        self.subsets[index]
    }

    /// [classes, 3]: how many images each class has in each subset.
    pub fn counts(&self) -> Vec<[usize; 3]> {
        let mut counts = vec![[0; 3]; self.names.len()];
        for (&class, &subset) in self.classes.iter().zip(&self.subsets) {
            counts[class as usize][subset as usize] += 1;
        }
        counts
    }

    /// Numbers the classes in the order of their keys.
    pub fn sort_classes<K: Ord>(&mut self, key: impl Fn(&str) -> K) {
        let mut order: Vec<u32> = (0..self.names.len() as u32).collect();
        order.sort_by_key(|&class| key(&self.names[class as usize]));
        let mut number_of = vec![0; order.len()];
        order.iter().zip(0..).for_each(|(&class, number)| number_of[class as usize] = number);
        self.classes.iter_mut().for_each(|class| *class = number_of[*class as usize]);
        self.names = order.iter().map(|&class| std::mem::take(&mut self.names[class as usize])).collect();
        self.numbers = HashMap::new();
    }

    /// Two files with one path, by their numbers in order: of all such pairs the one whose second comes first.
    pub fn named_twice(&self) -> Option<(usize, usize)> {
        let mut order: Vec<u32> = (0..self.count() as u32).collect();
        order.sort_unstable_by(|&a, &b| {
            self.path(a as usize).as_os_str().cmp(self.path(b as usize).as_os_str()).then(a.cmp(&b))
        });
        let pairs = order.windows(2).map(|pair| (pair[0] as usize, pair[1] as usize));
        pairs.filter(|&(a, b)| self.path(a).as_os_str() == self.path(b).as_os_str()).min_by_key(|&(_, second)| second)
    }
}
