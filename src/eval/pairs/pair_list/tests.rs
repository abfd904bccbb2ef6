use super::*;

fn pairs(text: &str) -> Parsed<(usize, Vec<PairEntry>)> {
    parse_pairs(text.as_bytes())
}

#[test]
fn pair_lists_are_read_with_each_image_once() {
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("pairs.txt");
    std::fs::write(&list, "2\t1\nA_B\t1\t12\nA_B\t1\tC\t1\nA_B\t12\t1\nC\t1\tA_B\t12\n").unwrap();
    let read = read_pairs(&list).unwrap();
    assert_eq!(read.images, ["A_B/A_B_0001.jpg", "A_B/A_B_0012.jpg", "C/C_0001.jpg"]);
    assert_eq!(read.pairs, [(0, 1), (0, 2), (1, 0), (2, 1)]);
    assert_eq!((read.same, read.folds), (vec![true, false, true, false], 2));
    let error = read_pairs(&directory.path().join("none/pairs.txt")).unwrap_err().to_string();
    assert!(error.contains("pairs.txt: can't be read: "), "{error}");
}

#[test]
fn a_list_without_folds_has_none() {
    assert_eq!(pairs("1\nA 1 2\nA 1 B 1\n").unwrap().0, 0);
}

#[test]
fn bad_pair_lists_are_refused() {
    let refused = |text: &str, why: &str| assert_eq!(pairs(text), Err(why.to_owned()), "{text:?}");
    refused("\u{feff}\n# nothing\n", "a list without a pair");
    refused("x", "line 1: \"x\" is neither 1 (one person) nor 0 (two)");
    refused("0", "0 pairs of one person and 0 of two; line 1 states 1 x 0 of each");
    refused("10 0", "0 pairs of one person and 0 of two; line 1 states 10 x 0 of each");
    refused("0 300", "line 1: the second image of its pair is missing");
    refused("-1", "line 1: neither 'path path 1' nor, in two lines each, 'path 1', nor a line of LFW's pairs.txt");
    refused("a b 1\na b c d e", "line 2: \"e\" is neither 1 (one person) nor 0 (two)");
    refused("a b 1\na 1\nb 0", "lines 2 and 3 are a pair, but one says 1 and one 0");
    refused("a b 1\na 1\n", "line 2: the second image of its pair is missing");
    refused(
        "a 1\na b 1\n",
        "line 2: neither 'path path 1' nor, in two lines each, 'path 1', nor a line of LFW's pairs.txt",
    );
    refused("a.jpg a.jpg 1", "line 1: an image and itself");
    refused("a,b,1\n ,\t,", "line 2: nothing between its separators");
    refused("1\nA 1\nA 1 B 1", "line 2: neither 'name i j' nor 'name1 i name2 j'");
    refused("1\n\nA 1\nA 1 B 1", "line 3: neither 'name i j' nor 'name1 i name2 j'");
    refused("1\nA 1 x\nA 1 B 1", "line 2: \"x\" is no image number");
    refused("1\nA 1 0\nA 1 B 1", "line 2: \"0\" is no image number");
    refused("1\nA 1 -2\nA 1 B 1", "line 2: \"-2\" is no image number");
    refused("1\nA 1 1\nA 1 B 1", "line 2: an image and itself");
    refused("1\nA 1 A 2\nA 1 B 1", "line 2: \"A\" twice where two persons are due");
    refused("1\n../A 1 2\nA 1 B 1", "line 2: \"../A\" is no person's name");
    refused("1\nA 1 2\nA 1 .. 1", "line 3: \"..\" is no person's name");
    refused("2 1\nA 1 2\nA 1 B 1", "1 pairs of one person and 1 of two; line 1 states 2 x 1 of each");
    refused("1\nA 1 2\nA 1 3", "2 pairs of one person and 0 of two; line 1 states 1 x 1 of each");
    let huge = "0 pairs of one person and 0 of two; line 1 states 9223372036854775807 x 9 of each";
    refused("9223372036854775807 9", huge);
    assert!(parse_pairs(b"1\nA 1 2\n\xff").unwrap_err().starts_with("not text: "));
}

#[test]
fn lists_of_paths_are_read_in_the_forms_that_people_have() {
    let expected = |lines: [usize; 2]| {
        let entry =
            |line, second: &str, same| PairEntry { line, images: ["A/1.jpg".to_owned(), second.to_owned()], same };
        Ok((0, vec![entry(lines[0], "A/2.JPG", true), entry(lines[1], "b c/1.jpg", false)]))
    };
    for (text, lines) in [
        ("A/1.jpg,A/2.JPG,1\nA/1.jpg,b c/1.jpg,0\n", [1, 2]),
        ("\u{feff}A/1.jpg\tA/2.JPG\t1\r\nA/1.jpg\tb c/1.jpg\t-1\r\n", [1, 2]),
        ("first,second,same\n\"A/1.jpg\",\"A/2.JPG\",True\n\n\"A/1.jpg\", \"b c/1.jpg\", False\n", [2, 4]),
        ("A\\1.jpg\t3\nA\\2.JPG\t3\nA\\1.jpg\t0\nb c\\1.jpg\t0\n", [1, 3]),
    ] {
        assert_eq!(pairs(text), expected(lines), "{text:?}");
    }
    let blanks = pairs("A/1.jpg A/2.JPG 1\nA/1.jpg b/1.jpg 0").unwrap().1;
    assert_eq!(blanks[1].images, ["A/1.jpg", "b/1.jpg"]);
    // RFW's: as LFW's, without the first line
    let (folds, entries) = pairs("A\t1\t2\nA\t1\tB\t1\n").unwrap();
    assert_eq!((folds, &entries[1].images[1][..], entries[0].same), (0, "B/B_0001.jpg", true));
}
