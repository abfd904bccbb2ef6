use std::fs;

use super::*;
use crate::data::prepare::tests::tree_of;

fn all(found: &LabelledFiles) -> Vec<(String, String, Subset)> {
    let image = |index| {
        let ImageRead { identity, bytes } = found.read(index).unwrap();
        assert_eq!(*bytes.unwrap(), *found.name(index).as_bytes(), "each file holds its name");
        (found.name(index), found.identity(identity.unwrap()), found.subset(index).unwrap())
    };
    (0..found.count()).map(image).collect()
}

fn image(path: &str, class: &str, subset: Subset) -> (String, String, Subset) {
    (path.into(), class.into(), subset)
}

fn error(source: &Path) -> String {
    LabelledFiles::open(source).err().unwrap().to_string()
}

#[test]
fn a_directory_is_a_class_with_all_below_it() {
    let root = tree_of(&["b/2.png", "b/deep/1.jpg", "a/x.Pgm", "a/notes.txt", "list.csv", "empty/", "train/9.jpg"]);
    let found = LabelledFiles::open(root.path()).unwrap();
    let train = |path, class| image(path, class, Subset::Train);
    // a class may be called train, if there is nothing to test beside it
    let expected =
        [train("a/x.Pgm", "a"), train("b/2.png", "b"), train("b/deep/1.jpg", "b"), train("train/9.jpg", "train")];
    assert_eq!(all(&found), expected);
    assert_eq!(found.empty_identities(), ["empty"]);
    let ignored: Vec<_> = found.ignored().iter().map(|(name, why)| (&name[..], &why[..])).collect();
    let expected = [("a/notes.txt", "not an image by its extension"), ("list.csv", "not in the directory of a class")];
    assert_eq!(ignored, expected);
}

#[test]
fn subsets_are_directories_around_the_classes() {
    let root = tree_of(&["train/a/1.jpg", "train/b/1.jpg", "valid/a/2.jpg", "test/b/3.jpg", "other/a/1.jpg"]);
    let found = LabelledFiles::open(root.path()).unwrap();
    let expected = [
        image("train/a/1.jpg", "a", Subset::Train),
        image("train/b/1.jpg", "b", Subset::Train),
        image("valid/a/2.jpg", "a", Subset::Validation),
        image("test/b/3.jpg", "b", Subset::Test),
    ];
    assert_eq!(all(&found), expected);
    assert_eq!(found.ignored(), [("other".to_owned(), "neither train nor val nor test".to_owned())]);
}

#[test]
fn tiny_imagenets_validation_set_has_a_list() {
    let root =
        tree_of(&["train/n1/images/a.JPEG", "train/n2/images/b.JPEG", "val/images/v0.JPEG", "val/images/v1.JPEG"]);
    let list = root.path().join("val/val_annotations.txt");
    fs::write(&list, "v0.JPEG\tn2\t0\t32\t44\t62\nv1.JPEG\tn1\t52\t55\t57\t59\n").unwrap();
    let found = LabelledFiles::open(root.path()).unwrap();
    let expected = [
        image("train/n1/images/a.JPEG", "n1", Subset::Train),
        image("train/n2/images/b.JPEG", "n2", Subset::Train),
        image("val/images/v0.JPEG", "n2", Subset::Validation),
        image("val/images/v1.JPEG", "n1", Subset::Validation),
    ];
    assert_eq!(all(&found), expected);
    fs::write(&list, "v0.JPEG\tn2\nv1.JPEG\n").unwrap();
    assert!(error(root.path()).ends_with("val/val_annotations.txt: line 2: a file and its class, with a tab between"));
}

#[test]
fn trees_that_are_no_data_to_classify_are_refused() {
    let one = tree_of(&["a/1.jpg", "empty/"]);
    assert!(error(one.path()).ends_with("one class of images to train on (a): classification wants two or more"));
    let none = tree_of(&["1.jpg"]);
    assert!(error(none.path()).contains("no images; wanted are files *.jpg, *.jpeg"), "{}", error(none.path()));
    let untrained = tree_of(&["train/a/1.jpg", "train/b/1.jpg", "test/c/1.jpg", "test/d/1.jpg"]);
    assert!(error(untrained.path()).ends_with("2 test classes have no image to train on, such as \"c\"; add some, or leave the test images of such classes out"));
    assert!(error(&none.path().join("missing.csv")).ends_with("missing.csv: No such file or directory (os error 2)"));
}

#[test]
fn lists_name_files_classes_and_subsets() {
    let root = tree_of(&["x/1.jpg", "x/2.jpg", "y, z/3.jpg"]);
    let list = |name: &str, text: &str| {
        let path = root.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let expected = [
        image("x/1.jpg", "cat", Subset::Train),
        image("x/2.jpg", "7", Subset::Train),
        image("y, z/3.jpg", "cat", Subset::Test),
    ];
    let with_header = "id,split,label,path\n1,train,cat,x/1.jpg\n2,training,7,x/2.jpg\n3,test,cat,\"y, z/3.jpg\"\n";
    let tabs = "\u{feff}image\tclass\tsubset\r\nx/1.jpg\tcat\ttrain\r\nx/2.jpg\t7\ttrain\r\ny, z/3.jpg\tcat\ttest\r\n";
    let without_header = "x/1.jpg,cat,train\nx/2.jpg,7,train\n\"y, z/3.jpg\",cat,test\n";
    for path in [list("a.csv", with_header), list("b.tsv", tabs), list("c.csv", without_header)] {
        assert_eq!(all(&LabelledFiles::open(&path).unwrap()), expected, "{}", path.display());
    }
    let refused = |text: &str| error(&list("bad.csv", text));
    let header = "path,label,split\n";
    for (text, why) in [
        ("", "no images"),
        (
            "what,else\nx/1.jpg,cat\n",
            "line 1: neither a header nor a file that is there: what, else; name the columns path (file, filename, ",
        ),
        (
            "path,label,split\nx/1.jpg,cat,later\n",
            "line 2: the split \"later\"; there are train, val (valid, validation, dev) and test",
        ),
        ("path,label,split\nx/1.jpg,,train\n", "line 2: no label"),
        ("path,label,split\nx/1.jpg,cat,train\nx/1.jpg,cat,test\n", "line 3: x/1.jpg, which line 2 names already"),
        ("path,label,split\nx/1.jpg,cat\n", "line 2: 2 columns instead of 3"),
    ] {
        assert!(refused(text).contains(why), "{text:?}: {}", refused(text));
    }
    assert!(refused(header).contains("no images"));
}
