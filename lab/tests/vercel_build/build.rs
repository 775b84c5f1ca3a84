//! The functions in `api/`, built by Vercel's own builder out of what would be uploaded.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use lab::tools;
use serde_json::Value;

use crate::common::{checkout, elsewhere};

/// What the builder has put out.
pub struct Output {
    folder: PathBuf,
}

/// Builds once for all tests.
pub fn output() -> &'static Output {
    static OUTPUT: OnceLock<Output> = OnceLock::new();
    OUTPUT.get_or_init(build)
}

fn build() -> Output {
    let project = checkout::scratch("vercel");
    let ignored = ignored();
    checkout::copy(checkout::root(), &project, &|path| {
        ignored.iter().any(|ignored| path == Path::new(ignored))
    });
    // What `vercel link` writes, for which one needs an account.
    let link = r#"{"projectId":"prj_x","orgId":"team_x","settings":{"framework":null}}"#;
    fs::create_dir(project.join(".vercel")).expect("a folder");
    fs::write(project.join(".vercel/project.json"), link).expect("written");

    let mut vercel = Command::new(tools::tool("vercel"));
    elsewhere(&mut vercel)
        .args(["build", "--standalone", "--yes", "--global-config"])
        .arg(checkout::scratch("vercel-settings"))
        .current_dir(&project)
        .env("VERCEL_TELEMETRY_DISABLED", "1")
        // As on Vercel's own machines: plain cargo, for the machine that it runs on.
        .env("VERCEL_BUILD_IMAGE", "1");
    let said = tools::run(&mut vercel);
    // It also says this when it has found nothing to build.
    assert!(said.contains("Build Completed"), "{said}");
    Output {
        folder: project.join(".vercel/output"),
    }
}

/// What is not uploaded: .vercelignore, and what the command never uploads.
fn ignored() -> Vec<String> {
    let file = fs::read_to_string(checkout::root().join(".vercelignore")).expect("readable");
    let names = file.lines().filter(|line| !line.starts_with('#'));
    let names: Vec<String> = names.map(str::to_owned).collect();
    for name in &names {
        assert!(
            !name.contains(['/', '*', '!']),
            "{name} in .vercelignore: this test understands plain names alone"
        );
    }
    let own = [".git", ".vercel"].map(str::to_owned);
    [names, own.to_vec()].concat()
}

impl Output {
    pub fn executable(&self, function: &str) -> PathBuf {
        self.function(function).join("executable")
    }

    /// How the function is to be run.
    pub fn config(&self, function: &str) -> Value {
        json(&self.function(function).join(".vc-config.json"))
    }

    /// How requests find their way.
    pub fn routes(&self) -> Value {
        json(&self.folder.join("config.json"))["routes"].take()
    }

    /// The names of all functions.
    pub fn functions(&self) -> Vec<String> {
        names(&self.folder.join("functions/api"))
    }

    /// The names of what is served as it is.
    pub fn pages(&self) -> Vec<String> {
        names(&self.folder.join("static"))
    }

    fn function(&self, name: &str) -> PathBuf {
        self.folder
            .join("functions/api")
            .join(format!("{name}.func"))
    }
}

pub fn json(path: &Path) -> Value {
    let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).expect("JSON")
}

fn names(folder: &Path) -> Vec<String> {
    let entries =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("readable")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}
