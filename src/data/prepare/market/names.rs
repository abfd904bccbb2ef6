//! Persons and cameras, from the names of files and from lists.

use std::path::{Component, Path};

use super::releases::Release;
use crate::data::Split;

#[derive(Debug, PartialEq)]
pub struct Name<'a> {
    /// The name as it is in the file's name.
    pub person: &'a str,
    pub number: i32,
    pub camera: u32,
}

/// `([-\d]+)_c(\d+)`, the rest doesn't matter. None: another form.
pub fn parse(name: &str) -> Option<Name<'_>> {
    let (person, rest) = name.split_once("_c")?;
    // a plus sign would be parsed, too
    let digits = person.strip_prefix('-').unwrap_or(person);
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let end = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
    Some(Name { person, number: person.parse().ok()?, camera: rest[..end].parse().ok()? })
}

/// Errors: a person or a camera that can't be there. In one's own tree, person 0 may be anywhere.
pub fn check(name: &Name, split: Split, own: bool, release: Option<&Release>) -> Result<(), String> {
    let Name { number, camera, .. } = *name;
    if number < -1 {
        return Err(format!("there is no person {number}"));
    }
    if number < if own { 0 } else { 1 } && split != Split::Gallery {
        return Err(format!("person {number} is only for bounding_box_test"));
    }
    release.map_or(Ok(()), |release| release.check(number, camera))
}

/// A line of an MSMT17 list, `0000/0000_000_01_0303morning_0008_0.jpg 0`: path, person, camera (the third part of the
/// file's name). Errors: another form.
pub fn parse_listed(line: &str) -> Result<(&Path, u32, u32), String> {
    let columns = line.rsplit_once([' ', '\t']).and_then(|(path, person)| Some((path.trim(), person.parse().ok()?)));
    let (path, person) = columns.ok_or("not a path and a person's number")?;
    let path = Path::new(path);
    if path.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err("not a path below the directory of images".into());
    }
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let camera = name.split('_').nth(2).and_then(|camera| camera.parse().ok());
    let camera = camera.ok_or("its name has not the camera's number behind its second _")?;
    // there must be room for those of the test, who are counted on from the last one here
    if person > MOST_PERSON {
        return Err(format!("there is no person {person}"));
    }
    Ok((path, person, camera))
}

const MOST_PERSON: u32 = 1 << 30;
