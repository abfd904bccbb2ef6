//! `amlfs prepare images` on what people have: CIFAR as it is given out, lists of every spelling, trees with everything in them.

mod support;

use std::ffi::OsStr;
use std::fs;
use std::io::Cursor;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use amlfs::data::{Images, Packed, Subset};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use support::{AMLFS, amlfs, assert_code, assert_error, final_without_timings, finish, mpirun, path, text};

/// An image of one's own, different for each number.
fn picture(height: u32, width: u32, number: u32) -> DynamicImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 3 + number) as u8, (y * 5) as u8, (number * 7) as u8])).into()
}

fn save(directory: &Path, name: impl AsRef<Path>, image: &DynamicImage) {
    let path = directory.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::from_path(&path).unwrap_or(ImageFormat::Jpeg)).unwrap();
    fs::write(path, bytes.into_inner()).unwrap();
}

/// Five images of each class.
fn tree(directory: &Path, classes: &[&str]) {
    for (class, name) in classes.iter().enumerate() {
        (0..5).for_each(|i| save(directory, format!("{name}/{i}.png"), &picture(20, 24, (10 * class + i) as u32)));
    }
}

fn prepare(source: &Path, out: &str, more: &[&str]) -> Output {
    amlfs(&[&["prepare", "images", &source.display().to_string(), "--out", out], more].concat())
}

fn assert_says(output: &Output, what: &str) {
    assert_code(output, 0);
    assert!(text(output).contains(what), "'{}' lacks '{what}'", text(output));
}

/// CIFAR-100's binary version: `each` images of each class to train on, one to test, whose first pixels are (class, number, 9).
fn cifar100(directory: &Path, each: u8) {
    fs::create_dir_all(directory).unwrap();
    let record =
        |class: u8, number: u8| [vec![class / 5, class], vec![class; 1024], vec![number; 1024], vec![9; 1024]].concat();
    let records = |numbers: std::ops::Range<u8>| {
        numbers.flat_map(|number| (0..100).flat_map(move |class| record(class, number))).collect::<Vec<u8>>()
    };
    fs::write(directory.join("train.bin"), records(0..each)).unwrap();
    fs::write(directory.join("test.bin"), records(each..each + 1)).unwrap();
}

#[test]
fn cifar_is_packed_raw_with_its_subsets_and_names_and_a_small_network_trains_on_it() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let (source, out) = (here.join("cifar-100-binary"), path(here, "cifar.h5"));
    cifar100(&source, 3);
    let refused = prepare(&source, &out, &["--resize=64"]);
    assert_error(&refused, 1, "cifar-100-binary: CIFAR's images are stored raw; leave --resize out, or take --raw HxW");
    let told = prepare(&source, &out, &[]);
    assert_says(&told, "cifar.h5: 400 images of 100 classes");
    assert_says(&told, "to train on: 300 images of 100 classes, imbalance 1.0 (apple 3, aquarium_fish 3, baby 3 ...");
    assert_says(&told, "test: 100 images of 100 classes");
    let packed = Packed::open(Path::new(&out)).unwrap();
    assert_eq!((packed.size(), &packed.identities()[17][..]), ((32, 32), "castle"));
    assert_eq!((packed.label(217), packed.subsets().unwrap()[217]), (17, Subset::Train));
    assert_eq!((packed.label(399), packed.subsets().unwrap()[399]), (99, Subset::Test));
    assert_eq!(packed.stored(217).unwrap()[..3], [17, 2, 9]);
    assert_eq!(packed.names().unwrap()[399], "test/00099");
    assert_says(&prepare(&source, &out, &[]), "cifar.h5: done before: 400 images of 100 classes");

    // the archive gives the same
    let (archive, other) = (here.join("cifar-100-binary.tar.gz"), path(here, "other.h5"));
    let tar = Command::new("tar").args(["-czf"]).arg(&archive).arg("-C").arg(here).arg("cifar-100-binary").output();
    assert!(tar.unwrap().status.success());
    assert_says(&prepare(&archive, &other, &[]), "other.h5: 400 images of 100 classes");
    let other = Packed::open(Path::new(&other)).unwrap();
    assert!((0..400).all(|index| packed.stored(index).unwrap() == other.stored(index).unwrap()));

    let settings = [
        "train",
        "--loss=softmax",
        "--preset=images-small",
        "--device=cpu",
        "--threads=1",
        "--epochs=1",
        "--set=model.name=resnet-cifar",
        "--set=model.depth=8",
        "--set=data.images.size=32",
        "--set=data.images.shorter_side=32",
        "--set=data.images.crop=padded",
        "--set=data.crop_padding=4",
        "--set=train.batch_size=50",
        "--set=train.milestones=[]",
    ];
    let more = [format!("--data={out}"), format!("--out={}", path(here, "run"))];
    let settings: Vec<&str> = settings.into_iter().chain(more.iter().map(String::as_str)).collect();
    assert_code(&finish(&mut mpirun(1, &settings)), 0);
    let found = final_without_timings(&here.join("run"));
    assert!(found.test.iter().any(|(name, value)| name == "top5" && (0.0..=1.0).contains(value)), "{:?}", found.test);
}

#[test]
fn lists_are_understood_however_a_spreadsheet_writes_them() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    tree(here, &["a", "b"]);
    let table = |between: &str, end: &str, quote: &str| {
        let row = |cells: [&str; 3]| cells.map(|cell| format!("{quote}{cell}{quote}")).join(between) + end;
        let image = |(class, label): (&str, &str), i: usize| {
            row([&format!("{class}/{i}.png"), label, if i == 4 { "Test" } else { "TRAIN" }])
        };
        let rows = [("a", "9"), ("b", "10")].into_iter().flat_map(|class| (0..5).map(move |i| image(class, i)));
        row(["File", "Class", "Subset"]) + &rows.collect::<String>()
    };
    for (number, list) in [
        table(",", "\n", ""),
        format!("\u{feff}{}", table(",", "\r\n", "\"")),
        table(";", "\r\n", ""),
        table("\t", "\n", ""),
        table("; ", "\n", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let (file, out) = (here.join(format!("list {number}.txt")), path(here, &format!("{number}.h5")));
        fs::write(&file, list).unwrap();
        assert_says(&prepare(&file, &out, &[]), "10 images of 2 classes");
        let packed = Packed::open(Path::new(&out)).unwrap();
        // numbers are in their own order
        assert_eq!(packed.identities(), ["9", "10"], "{number}");
        assert_eq!((packed.label(0), packed.label(9), packed.subsets().unwrap()[9]), (0, 1, Subset::Test));
    }
}

#[test]
fn a_bad_list_is_refused_with_its_line_before_anything_is_packed() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    tree(here, &["a", "b"]);
    let (list, out) = (here.join("list.csv"), path(here, "out.h5"));
    let good = "path,label,split\na/0.png,cat,train\nb/0.png,dog,train\n";
    for (bytes, why) in [
        (
            good.replace("path,label", "bild,klasse").into(),
            "line 1: neither a header nor a file that is there: bild, klasse, split; name the columns path (file,",
        ),
        (
            format!("{good}b/1.png,dog,later\n").into(),
            "line 4: the split \"later\"; there are train, val (valid, validation, dev) and test",
        ),
        (
            format!("{good}b/1.png,cow,test\n").into(),
            "1 test class has no image to train on, such as \"cow\"; add some, or leave",
        ),
        (
            format!("{good}./a/0.png,cat,test\n").into(),
            "line 4: a/0.png, which line 2 names already; leave one of them out",
        ),
        (format!("{good}b/1.png\n").into(), "line 4: 1 columns instead of 3: b/1.png"),
        (
            format!("{good}\"b/1.png,dog,train\nb/2.png,dog,train\n").into(),
            "line 4: 1 columns instead of 3: b/1.png,dog,train; is a quotation mark missing?",
        ),
        (format!("{good}b/1.png, ,train\n").into(), "line 4: no label"),
        (
            [good.as_bytes(), b"a/1.png,ch\xe2t,train\n"].concat(),
            "line 4: not UTF-8; wanted is the list, saved as UTF-8",
        ),
        (b"\xff\xfep\0a\0".to_vec(), "list.csv: UTF-16; save it as UTF-8"),
        (
            b"\xff\xd8\xff\xe0 no list".to_vec(),
            "line 1: not UTF-8; wanted is a list of path, label and, if there is one, split",
        ),
        (good.replace("dog", "cat").into(), "one class of images to train on (cat): classification wants two or more"),
        (Vec::<u8>::new(), "list.csv: no images; wanted are rows of path, label and, if there is one, split"),
    ] {
        fs::write(&list, bytes).unwrap();
        assert_error(&prepare(&list, &out, &[]), 1, why);
    }
    // files that are not there are found before the first is packed
    fs::write(&list, format!("{good}a/9.png,cat,train\nb,dog,train\n")).unwrap();
    let output = prepare(&list, &out, &[]);
    assert_error(&output, 1, "2 of 4 images can't be used, more than the 1 % allowed:");
    assert!(text(&output).contains("\n  a/9.png: can't be read: No such file"), "{}", text(&output));
    assert!(text(&output).contains("\n  b: a directory, not an image\n"), "{}", text(&output));
    assert_eq!(fs::metadata(format!("{out}.bytes.part")).unwrap().len(), 0);
    assert_says(&prepare(&list, &out, &["--max-skipped=0.5"]), "2 of them images that can't be used");
    assert_error(&prepare(Path::new("/dev/null"), &path(here, "o.h5"), &[]), 1, "/dev/null: neither a directory");
    assert_error(&prepare(&here.join("nowhere"), &path(here, "o.h5"), &[]), 1, "nowhere: No such file or directory");
}

#[test]
fn trees_with_all_that_lies_about_are_packed_or_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let fresh = |name: &str, classes: &[&str]| {
        let root = here.join(name);
        tree(&root, classes);
        (root, path(here, &format!("{name}.h5")))
    };
    let (root, out) = fresh("everything", &["Cat", "cat", "dog", "deep/er", "single"]);
    fs::create_dir(root.join("empty")).unwrap();
    (1..5).for_each(|i| fs::remove_file(root.join(format!("single/{i}.png"))).unwrap());
    save(&root, OsStr::from_bytes(b"dog/\xff.jpg"), &picture(20, 20, 99));
    std::os::unix::fs::symlink("..", root.join("dog/loop")).unwrap();
    fs::create_dir(root.join("dog/9.png")).unwrap();
    let told = prepare(&root, &out, &[]);
    assert_says(&told, "22 images of 5 classes");
    assert_says(&told, "warn: the classes \"Cat\" and \"cat\" differ by case alone; they stay two");
    assert_says(&told, "warn: 1 class(es) with one image to train on, such as \"single\": none of it can be held out");
    assert_says(&told, "classes without a usable image: 1 (empty)");
    let skipped = fs::read_to_string(format!("{out}.skipped.csv")).unwrap();
    assert_eq!(skipped, "name,why\ndog/loop,a link to a directory that it lies in\n");

    let (root, out) = fresh("only-train", &["train/a", "train/b"]);
    assert_says(&prepare(&root, &out, &[]), "10 images of 2 classes");
    let (root, out) = fresh("only-test", &["Test/a", "Test/b"]);
    assert_error(&prepare(&root, &out, &[]), 1, "only-test: Test, but no train; wanted is a directory train with the");
    let (root, out) = fresh("more-to-test", &["train/a", "train/b", "test/a", "test/c"]);
    assert_error(&prepare(&root, &out, &[]), 1, "1 test class has no image to train on, such as \"c\"; add some, or");
    // none that can be used is as good as none
    (0..5).for_each(|i| save(&root, format!("train/c/{i}.png"), &picture(20, 20, i)));
    (0..5).for_each(|i| fs::write(root.join(format!("train/c/{i}.png")), "no image").unwrap());
    let refused = prepare(&root, &out, &["--max-skipped=0.5"]);
    assert_error(
        &refused,
        1,
        "the class \"c\" has images to validate or to test, but none to train on that can be used",
    );
    let (root, out) = fresh("one", &["a"]);
    assert_error(&prepare(&root, &out, &[]), 1, "one: one class of images to train on (a): classification wants two");
    let (root, out) = fresh("latin", &["a", "b"]);
    save(&root, OsStr::from_bytes(b"caf\xe9/1.jpg"), &picture(20, 20, 1));
    assert_error(&prepare(&root, &out, &[]), 1, "the name of this class is not UTF-8; rename its directory");

    // what is made within the source is no part of it
    let (root, _) = fresh("within", &["a", "b"]);
    let out = path(&root, "a/out.h5");
    assert_says(&prepare(&root, &out, &[]), "10 images of 2 classes");
    assert_says(&prepare(&root, &out, &[]), "done before: 10 images of 2 classes");
}

/// Pillow: Image.new("CMYK", (8, 8), (200, 40, 10, 30)).save(FILE, "JPEG", quality=95, optimize=True)
const CMYK: &str = "ffd8ffee000e41646f626500640000000000ffdb004300020101010101020101010202020202040302020202050404030406050606060506\
     0606070908060709070606080b08090a0a0a0a0a06080b0c0b0a0c090a0a0affc000140800080008044311004d11005911004b1100ffc400140001\
     00000000000000000000000000000009ffc40014100100000000000000000000000000000000ffda000e0443004d0059004b00003f0036cae1d430\
     8fffd9";

#[test]
fn images_of_odd_shapes_and_kinds_are_packed_or_listed() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let root = here.join("tree");
    tree(&root, &["a", "b"]);
    save(&root, "a/dot.png", &picture(1, 1, 1));
    save(&root, "a/long.png", &picture(10, 30_000, 1));
    save(&root, "a/strip.png", &picture(10, 1001, 1));
    save(&root, "a/wide.png", &picture(10, 1000, 1));
    fs::write(root.join("b/animated.gif"), b"GIF89a and so on").unwrap();
    let cmyk: Vec<u8> = (0..CMYK.len()).step_by(2).map(|i| u8::from_str_radix(&CMYK[i..i + 2], 16).unwrap()).collect();
    fs::write(root.join("b/cmyk.jpg"), cmyk).unwrap();
    // APP1: "Exif", a little-endian TIFF with one entry, the orientation (0x0112): turned by 90 degrees
    let mut jpeg = Cursor::new(Vec::new());
    picture(16, 32, 0).write_to(&mut jpeg, ImageFormat::Jpeg).unwrap();
    let exif = b"\xff\xe1\0\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    fs::write(root.join("b/turned.jpg"), [&b"\xff\xd8"[..], exif, &jpeg.into_inner()[2..]].concat()).unwrap();

    let (out, raw) = (path(here, "out.h5"), path(here, "raw.h5"));
    let told = prepare(&root, &out, &["--max-skipped=0.2", "--resize=16"]);
    assert_says(&told, "14 images of 2 classes");
    assert_says(&told, "skipped: 3 files, 3 of them images that can't be used; listed in");
    let skipped = fs::read_to_string(format!("{out}.skipped.csv")).unwrap();
    let lines: Vec<&str> = skipped.lines().collect();
    assert!(lines[1].starts_with("a/long.png,"), "{skipped}");
    assert_eq!(lines[2], "a/strip.png,10 x 1001 pixels: one side is more than 100 times the other");
    assert_eq!(lines[3], "b/animated.gif,neither JPEG nor PNG nor PNM");
    let packed = Packed::open(Path::new(&out)).unwrap();
    let at = |packed: &Packed, name: &str| packed.names().unwrap().iter().position(|found| found == name).unwrap();
    // turned once, and not again: its shorter side was not longer than 16
    let turned = packed.stored(at(&packed, "b/turned.jpg")).unwrap();
    assert_eq!(turned, fs::read(root.join("b/turned.jpg")).unwrap());
    assert_says(&prepare(&root, &raw, &["--max-skipped=0.2", "--raw=32x16"]), "14 images of 2 classes");
    let packed = Packed::open(Path::new(&raw)).unwrap();
    // Pillow says (49, 190, 216)
    let pixel = &packed.stored(at(&packed, "b/cmyk.jpg")).unwrap()[..3];
    assert!(pixel.iter().zip([49u8, 190, 216]).all(|(a, b)| a.abs_diff(b) <= 3), "{pixel:?}");
    // its left column is on top now: red grows downwards
    let turned = packed.stored(at(&packed, "b/turned.jpg")).unwrap();
    assert!(turned[0] < 10 && turned[3 * 16 * 31] > 80, "{} {}", turned[0], turned[3 * 16 * 31]);
}

#[test]
fn a_full_disk_loses_nothing_that_is_done() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let root = here.join("tree");
    for class in ["a", "b"] {
        (0..100).for_each(|i| save(&root, format!("{class}/{i}.png"), &picture(64, 64, i)));
    }
    let (out, straight) = (path(here, "out.h5"), path(here, "straight.h5"));
    let source = root.display().to_string();
    let command = ["prepare", "images", &source, "--raw=64x64", "--out"];
    // a limit of 1 MB for each file, as a full disk or a quota sets it: 200 images of 12 kB are 2.4 MB
    let limited = ["-c", "ulimit -f 1024; exec \"$0\" \"$@\"", AMLFS];
    let refused = finish(Command::new("bash").args(limited).args(command).arg(&out).stdin(Stdio::null()));
    assert_error(&refused, 1, "out.h5.bytes.part: File too large");
    assert!(!Path::new(&out).exists());
    let done = amlfs(&[&command[..], &[&out]].concat());
    assert_says(&done, "of 200 images are done already");
    assert_says(&done, "200 images of 2 classes");
    assert_code(&amlfs(&[&command[..], &[&straight]].concat()), 0);
    let [one, other] = [&out, &straight].map(|file| Packed::open(Path::new(file)).unwrap());
    assert!((0..200).all(|index| one.stored(index).unwrap() == other.stored(index).unwrap()));
}

#[test]
fn what_may_not_be_read_is_named_a_directory_ends_it_and_a_file_counts() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let (root, out) = (here.join("tree"), path(here, "out.h5"));
    tree(&root, &["a", "b"]);
    let forbid =
        |name: &str, mode: u32| fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    let source = root.display().to_string();
    // root reads everything unless it gives that right away
    // SAFETY: asks for a number
    let is_root = unsafe { libc::geteuid() } == 0;
    let without = ["--bounding-set=-dac_override,-dac_read_search", AMLFS];
    let prepare = || {
        let mut command = if is_root { Command::new("setpriv") } else { Command::new(AMLFS) };
        command.args(if is_root { &without[..] } else { &[] });
        finish(command.args(["prepare", "images", &source, "--out", &out, "--max-skipped=0.1"]))
    };
    forbid("b", 0o000);
    assert_error(&prepare(), 1, "tree/b: can't be listed: Permission denied");
    forbid("b", 0o755);
    forbid("a/3.png", 0o000);
    assert_says(&prepare(), "9 images of 2 classes");
    let skipped = fs::read_to_string(format!("{out}.skipped.csv")).unwrap();
    assert!(skipped.contains("a/3.png,can't be read: Permission denied"), "{skipped}");
}
