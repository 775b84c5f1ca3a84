//! Copies of this checkout, or parts of it.

use std::{
    env, fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
};

/// The root of this checkout.
pub fn root() -> &'static Path {
    let lab = Path::new(env!("CARGO_MANIFEST_DIR"));
    lab.parent().expect("the lab lies in it")
}

/// A folder of that name for a test's own files. It is kept, so that cargo finds what it
/// has built of it.
pub fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// A folder with nothing in it, for a project that `cargo new` makes: outside of this
/// workspace, since it would become a member. The same one each time, as [`scratch`] is.
pub fn outside(name: &str) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    env!("CARGO_TARGET_TMPDIR").hash(&mut hasher);
    let ours = format!("antifreeze-{:016x}", hasher.finish());
    let folder = env::temp_dir().join(ours).join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).expect("removed");
    }
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// A copy of a starter, which takes the crate from here.
pub fn starter(name: &str) -> PathBuf {
    let folder = scratch("starters").join(name);
    let origin = root().join("starters").join(name);
    copy(&origin, &folder, &|path| path == Path::new("target"));
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).expect("readable");
    let path = root().display();
    let patch = format!("\n[patch.crates-io]\nantifreeze = {{ path = \"{path}\" }}\n");
    fs::write(folder.join("Cargo.toml"), manifest + &patch).expect("written");
    folder
}

/// Makes `to` a copy of `from`, without what `leave` says of the paths below `from`.
/// Files that are the same already are not touched: cargo goes by their time.
pub fn copy(from: &Path, to: &Path, leave: &dyn Fn(&Path) -> bool) {
    mirror(from, to, Path::new(""), leave);
}

fn mirror(from: &Path, to: &Path, below: &Path, leave: &dyn Fn(&Path) -> bool) {
    fs::create_dir_all(to.join(below)).expect("a folder");
    for entry in fs::read_dir(to.join(below)).expect("readable") {
        let below = below.join(entry.expect("readable").file_name());
        let (copy, origin) = (to.join(&below), from.join(&below));
        if leave(&below) || !origin.exists() || origin.is_dir() != copy.is_dir() {
            if copy.is_dir() {
                fs::remove_dir_all(&copy).expect("removed")
            } else {
                fs::remove_file(&copy).expect("removed")
            }
        }
    }
    for entry in fs::read_dir(from.join(below)).expect("readable") {
        let below = below.join(entry.expect("readable").file_name());
        let (copy, origin) = (to.join(&below), from.join(&below));
        if leave(&below) {
            continue;
        }
        if origin.is_dir() {
            mirror(from, to, &below, leave);
        } else {
            let text = fs::read(&origin).expect("readable");
            if fs::read(&copy).ok().as_ref() != Some(&text) {
                fs::write(&copy, text).expect("written");
            }
        }
    }
}
