//! Detects containers and hosts in which `localhost` is the process itself.

use std::path::Path;

/// The variables that Lambda, Vercel and Kubernetes set in every function and pod (their
/// documents on environment variables).
const VARIABLES: [(&str, &str); 3] = [
    ("AWS_LAMBDA_FUNCTION_NAME", "Lambda"),
    ("VERCEL", "Vercel"),
    ("KUBERNETES_SERVICE_HOST", "the pod"),
];

/// The files that Docker and Podman create in every container.
const FILES: [&str; 2] = ["/.dockerenv", "/run/.containerenv"];

/// Returns the name of the sandbox that the process runs in, for messages.
pub(super) fn name() -> Option<&'static str> {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    detect(set, |path| Path::new(path).exists())
}

fn detect(set: impl Fn(&str) -> bool, exists: impl Fn(&str) -> bool) -> Option<&'static str> {
    let variable = VARIABLES.iter().find(|(name, _)| set(name));
    let file = || FILES.iter().any(|path| exists(path));
    variable
        .map(|(_, sandbox)| *sandbox)
        .or_else(|| file().then_some("the container"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sandbox_is_named() {
        for (variable, file, expected) in [
            ("AWS_LAMBDA_FUNCTION_NAME", "", Some("Lambda")),
            ("KUBERNETES_SERVICE_HOST", "/.dockerenv", Some("the pod")),
            ("", "/.dockerenv", Some("the container")),
            ("HOME", "/etc/passwd", None),
        ] {
            let detected = detect(|name| name == variable, |path| path == file);
            assert_eq!(detected, expected, "{variable} {file}");
        }
    }
}
