//! A network of one's own images in torchvision, by the Python of docs/images.md.

use std::process::Command;

use serde_json::Value;

use crate::support::{amlfs, assert_code, finish, json, page, path};
use crate::{Possible, python};

/// The network's three likeliest classes for each image, as torchvision and Pillow see them.
const PREDICT: &str = r#"
import json, pathlib
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor
prepared = Compose([Resize(40), CenterCrop(32), ToTensor(), Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
files = sorted(pathlib.Path("photos").glob("*/*"))
images = torch.stack([prepared(Image.open(file).convert("RGB")) for file in files])
with torch.no_grad():
    values, classes = network(images).softmax(1).topk(3)
print(json.dumps({"images": [str(file) for file in files], "p": values.tolist(), "classes": classes.tolist(),
                  "onnx": pathlib.Path("model.onnx").stat().st_size}))
"#;

pub fn torchvision_predicts_what_we_predict_and_onnx_is_written() -> Possible {
    let python = python(&["torch", "torchvision"])?;
    let directory = tempfile::tempdir().unwrap();
    let here = |name: &str| path(directory.path(), name);
    assert_code(&amlfs(&["prepare", "glyphs", &here("photos"), "--identities=6", "--images=12", "--size=64x48"]), 0);
    assert_code(&amlfs(&["prepare", "images", &here("photos"), "--out", &here("images.h5")]), 0);
    let training = [
        "train",
        "--loss=softmax",
        "--preset=images-small",
        "--data",
        &here("images.h5"),
        "--out",
        &here("run"),
        "--device=cpu",
        "--set=model.width=1",
        "--set=data.images.size=32",
        "--set=data.images.shorter_side=40",
        "--epochs=3",
        "--set=train.batch_size=16",
        "--set=train.milestones=[]",
    ];
    assert_code(&amlfs(&training), 0);
    assert_code(&amlfs(&["export", "weights", "--model", &here("run"), "--out", &here("weights.pth")]), 0);
    let mut predict = Command::new(crate::support::AMLFS);
    predict.args(["predict", "photos", "--model", "run", "--out", "predictions.csv", "--top=3", "--device=cpu"]);
    assert_code(&finish(predict.current_dir(directory.path())), 0);

    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/images.md")).unwrap();
    let blocks = page::blocks(&text).into_iter().filter(|(mark, _)| mark == "python").map(|(_, code)| code);
    let script: String = blocks.chain([PREDICT.to_owned()]).collect();
    // its images are 64 pixels wide
    let script = script.replace("3, 64, 64", "3, 32, 32");
    let theirs =
        json(&finish(Command::new(python).args(["-B", "-W", "ignore", "-c", &script]).current_dir(directory.path())));

    let ours = std::fs::read_to_string(here("predictions.csv")).unwrap();
    let rows: Vec<Vec<&str>> = ours.lines().skip(1).map(|line| line.split(',').collect()).collect();
    assert_eq!(rows.len(), 72);
    let number = |value: &Value| value.as_f64().unwrap();
    for (image, row) in rows.iter().enumerate() {
        assert_eq!(theirs["images"][image], row[0]);
        for rank in 0..3 {
            let (class, p): (f64, f64) = (row[1 + 2 * rank].parse().unwrap(), row[2 + 2 * rank].parse().unwrap());
            let (their_class, their_p) = (number(&theirs["classes"][image][rank]), number(&theirs["p"][image][rank]));
            // resizing rounds another way here and there
            assert!((p - their_p).abs() < 0.01, "{row:?}: {p}, in torchvision {their_p}");
            let next = theirs["p"][image].get(rank + 1).map_or(0.0, number);
            assert!(
                class == their_class || their_p - next < 0.01 || rank > 0,
                "{row:?}: {class}, in torchvision {their_class}"
            );
        }
    }
    assert!(number(&theirs["onnx"]) > 4e7, "ResNet-18 has 11 million weights: {}", theirs["onnx"]);
    Ok(())
}
