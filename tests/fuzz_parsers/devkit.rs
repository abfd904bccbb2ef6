use amlfs::eval::megaface::devkit::{self, DistractorList, ProbeList};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{bytes, fuzz};

#[test]
fn features() {
    let single = vec(-9.0..9.0_f32, 1..9).prop_map(|feature| devkit::feature_bytes(&feature));
    let double = vec(any::<f64>(), 1..9).prop_map(|feature| {
        let columns = feature.len() as i32;
        let header = [1, columns, 8 * columns, 6];
        let data = feature.iter().flat_map(|value| value.to_le_bytes());
        header.iter().flat_map(|field| field.to_le_bytes()).chain(data).collect()
    });
    fuzz("feature", bytes(prop_oneof![single, double]), |bytes| {
        let Ok(feature) = devkit::parse_feature(&bytes) else { return false };
        assert!((1..=65536).contains(&feature.len()) && feature.iter().all(|value| value.is_finite()));
        let again = devkit::parse_feature(&devkit::feature_bytes(&feature)).unwrap();
        assert!(feature.iter().zip(&again).all(|(one, other)| one.to_bits() == other.to_bits()));
        assert!(bytes.len() == 16 + 4 * feature.len() || bytes.len() == 16 + 8 * feature.len());
        true
    });
}

fn check_paths(paths: &[String]) {
    assert!(!paths.is_empty());
    assert!(paths.iter().all(|path| !path.starts_with('/') && path.split('/').all(|part| part != "..")));
    assert_eq!(paths.iter().collect::<std::collections::HashSet<_>>().len(), paths.len());
}

#[test]
fn template_lists() {
    let path = "(\\.\\.|/)?[a-c]{1,3}(/[a-c\\.\"\\\\é]{1,3}){0,2}";
    let id =
        prop_oneof![any::<i64>().prop_map(serde_json::Value::from), "[a-c]{0,3}".prop_map(serde_json::Value::from)];
    let valid = vec((path, id), 0..4).prop_map(|rows| {
        let (paths, ids): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        serde_json::to_vec(&serde_json::json!({"path": paths, "id": ids})).unwrap()
    });
    fuzz("lists", bytes(valid), |json| {
        let distractors = DistractorList::parse(&json);
        if let Ok(list) = &distractors {
            check_paths(&list.paths);
            let again = serde_json::to_vec(&serde_json::json!({"path": list.paths})).unwrap();
            assert_eq!(DistractorList::parse(&again).unwrap().paths, list.paths);
        }
        if let Ok(list) = ProbeList::parse(&json) {
            check_paths(&list.paths);
            assert_eq!(list.paths.len(), list.ids.len());
            assert_eq!(distractors.unwrap().paths, list.paths);
            return true;
        }
        false
    });
}

#[test]
fn list_names() {
    let name = prop_oneof![
        "[a-z_]{0,9}\\.json_[0-9+-]{0,22}_[0-9]{0,3}",
        "\\PC{0,40}",
        (any::<usize>(), any::<usize>()).prop_map(|(size, set)| format!("list.json_{size}_{set}")),
    ];
    fuzz("list names", name, |name| {
        let Some((size, set)) = devkit::size_and_set(&name) else { return false };
        let numbers = name.rsplit_once(".json_").unwrap().1.split_once('_').unwrap();
        assert_eq!((size, set), (numbers.0.parse().unwrap(), numbers.1.parse().unwrap()));
        true
    });
}
