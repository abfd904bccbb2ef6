use super::*;

fn feature(header: [i32; 4], data: &[u8]) -> Vec<u8> {
    [header.iter().flat_map(|field| field.to_le_bytes()).collect(), data.to_vec()].concat()
}

#[test]
fn features_are_read_as_columns_and_rows_of_f32_and_f64() {
    let single: Vec<u8> = [1.5_f32, -2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let double: Vec<u8> = [1.5_f64, -2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    for (header, data) in
        [([2, 1, 4, 5], &single), ([1, 2, 8, 5], &single), ([2, 1, 8, 6], &double), ([1, 2, 16, 6], &double)]
    {
        assert_eq!(parse_feature(&feature(header, data)), Ok(vec![1.5, -2.0]), "{header:?}");
    }
    assert_eq!(feature_bytes(&[1.5, -2.0]), feature([2, 1, 4, 5], &single));
}

#[test]
fn bad_features_are_refused() {
    let refused = |bytes: &[u8], why: &str| assert_eq!(parse_feature(bytes), Err(why.to_owned()));
    let of = |header, data: &[u8], why: &str| refused(&feature(header, data), why);
    refused(b"short", "5 bytes; the header alone has 16");
    of([1, 1, 4, 7], &[0; 4], "type 7; 5 (f32) and 6 (f64) are known");
    for (rows, columns) in [(0, 1), (2, 2), (-1, 1), (1, 0), (65537, 1), (i32::MAX, i32::MAX), (i32::MIN, 1)] {
        let why = format!("{rows} x {columns} is no row or column of 1 to 65536 numbers");
        of([rows, columns, 4, 5], &[0; 4], &why);
    }
    of([2, 1, 8, 5], &[0; 8], "step 8; 1 columns of 4 bytes are 4");
    of([1, 2, 4, 5], &[0; 8], "step 4; 2 columns of 4 bytes are 8");
    of([2, 1, 4, 5], &[0; 7], "7 bytes after the header; 2 numbers of 4 are 8");
    of([2, 1, 4, 5], &[0; 9], "9 bytes after the header; 2 numbers of 4 are 8");
    of([1, 1, 4, 5], &f32::NAN.to_le_bytes(), "number 0 is NaN");
    of([1, 1, 4, 5], &f32::INFINITY.to_le_bytes(), "number 0 is inf");
    of([1, 1, 8, 6], &1e300_f64.to_le_bytes(), "number 0 is inf");
}

#[test]
fn a_written_feature_is_read_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("facescrub/A").join(feature_file_name("A_1.png", "amlfs"));
    assert!(path.ends_with("facescrub/A/A_1.png_amlfs.bin"));
    write_feature(&path, &[0.25, -1e-30]).unwrap();
    assert_eq!(read_feature(&path).unwrap(), [0.25, -1e-30]);
    let error = |feature: &[f32]| write_feature(&path, feature).unwrap_err().to_string();
    assert!(error(&[]).ends_with("amlfs.bin: a feature of 0 numbers; 1 to 65536 can be"));
    assert!(error(&[0.0; 65537]).ends_with("amlfs.bin: a feature of 65537 numbers; 1 to 65536 can be"));
    assert!(error(&[0.0, f32::NAN]).ends_with("amlfs.bin: number 1 of the feature is NaN"));
    std::fs::write(&path, "short").unwrap();
    assert!(read_feature(&path).unwrap_err().to_string().ends_with("amlfs.bin: 5 bytes; the header alone has 16"));
    let error = read_feature(&directory.path().join("none.bin")).unwrap_err().to_string();
    assert!(error.contains("none.bin: can't be read: "), "{error}");
    let error = write_feature(&path.join("below a file"), &[1.0]).unwrap_err().to_string();
    assert!(error.contains("below a file: can't be written: "), "{error}");
}

#[test]
fn lists_are_read() {
    let list = DistractorList::parse(br#"{"path": ["a/b.jpg", "c.jpg"], "other": 1}"#).unwrap();
    assert_eq!(list.paths, ["a/b.jpg", "c.jpg"]);
    let list = ProbeList::parse(br#"{"id": ["x", 7], "path": ["a/b.jpg", "c.jpg"]}"#).unwrap();
    assert_eq!((list.paths.len(), list.ids), (2, vec!["x".to_owned(), "7".to_owned()]));
}

#[test]
fn bad_lists_are_refused() {
    let refused = |json: &str, why: &str| {
        let error = DistractorList::parse(json.as_bytes()).unwrap_err();
        assert!(error.starts_with(why), "{error}");
    };
    refused("path", "no JSON object");
    refused(r#"[["a"]]"#, "no JSON object");
    refused("{path", "key must be a string at line 1 column 2");
    refused(&format!("{{\"x\": {}", "[".repeat(100_000)), "EOF while parsing a list");
    refused(&format!("{{\"path\": {}", "[".repeat(100_000)), "invalid type: sequence, expected a string");
    refused(r#"{"paths": []}"#, "missing field `path`");
    refused(r#"{"path": "a"}"#, "invalid type: string \"a\", expected a sequence");
    refused(r#"{"path": ["a"], "path": ["b"]}"#, "duplicate field `path`");
    refused(r#"{"path": []}"#, "an empty list");
    refused(r#"{"path": ["a", ""]}"#, "path 1 \"\" is empty");
    refused(r#"{"path": ["/a/b"]}"#, "path 0 \"/a/b\" is absolute");
    refused(r#"{"path": ["a/../b"]}"#, "path 0 \"a/../b\" is no plain path below the data set's folder");
    refused(r#"{"path": ["a", "b", "a"]}"#, "path 2 \"a\" is there twice");
    let refused = |json: &str, why: &str| {
        let error = ProbeList::parse(json.as_bytes()).unwrap_err();
        assert!(error.starts_with(why), "{error}");
    };
    refused(r#"{"path": ["a"]}"#, "missing field `id`");
    refused(r#"{"id": ["a"]}"#, "missing field `path`");
    refused(r#"{"path": [], "id": []}"#, "an empty list");
    refused(r#"{"path": ["a", "b"], "id": [1]}"#, "2 paths but 1 ids");
    refused(r#"{"path": ["a"], "id": [null]}"#, "an id that is a string or a number");
    refused(r#"{"path": ["a", "a"], "id": [1, 2]}"#, "path 1 \"a\" is there twice");
}

#[test]
fn the_size_in_a_lists_name_must_be_its_own() {
    assert_eq!(size_and_set("megaface_features_list.json_1000000_1"), Some((1000000, 1)));
    for name in
        ["facescrub_features_list.json", "list.json_10", "list.json_10_x", "list.json_+1_1", "list.json__", "10_1"]
    {
        assert_eq!(size_and_set(name), None, "{name}");
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("megaface_features_list.json_2_1");
    std::fs::write(&path, r#"{"path": ["a", "b"]}"#).unwrap();
    assert_eq!(DistractorList::read(&path).unwrap().paths.len(), 2);
    std::fs::write(&path, r#"{"path": ["a", "b", "c"]}"#).unwrap();
    let error = DistractorList::read(&path).unwrap_err().to_string();
    assert!(error.ends_with("megaface_features_list.json_2_1: 3 paths; its name states 2"), "{error}");
    let error = ProbeList::read(&path).unwrap_err().to_string();
    assert!(error.contains("json_2_1: missing field `id`"), "{error}");
}

#[test]
fn the_cmc_is_written_as_the_devkit_writes_it() {
    let directory = tempfile::tempdir().unwrap();
    let name = cmc_file_name("facescrub", "megaface", "amlfs", 1000000, 1);
    assert_eq!(name, "cmc_facescrub_megaface_amlfs_1000000_1.json");
    let cmc = Cmc::new(vec![0.75, 1.0], None);
    cmc.write(&directory.path().join("out"), &name).unwrap();
    let text = std::fs::read_to_string(directory.path().join("out").join(&name)).unwrap();
    assert_eq!(text, r#"{"cmc":[[0,1],[0.75,1.0]]}"#);
    assert_eq!(serde_json::from_str::<Cmc>(&text).unwrap(), cmc);
    let cmc = Cmc::new(vec![1.0], Some((vec![1e-6], vec![0.5])));
    assert_eq!(serde_json::to_string(&cmc).unwrap(), r#"{"cmc":[[0],[1.0]],"roc":[[1e-6],[0.5]]}"#);
    let error = |cmc: Cmc| cmc.write(directory.path(), "cmc.json").unwrap_err().to_string();
    assert!(error(Cmc::new(vec![f64::NAN], None)).ends_with("cmc.json: a value of NaN"));
    let error = error(Cmc::new(vec![1.0], Some((vec![1.0], vec![]))));
    assert!(error.ends_with("cmc.json: curves with lists of unequal length"), "{error}");
}
