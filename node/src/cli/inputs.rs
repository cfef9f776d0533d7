//! Documents that a command is given: files, folders, standard input; and where in them a fault stands.
//!
//! Secrets that are references to the environment and to files are resolved here, on the user's machine, before
//! anything is sent; what is missing is listed as a whole.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::Serialize;

use crate::control::document::{self, Document, Draft, Fault, MAX_BYTES, SecretSource, label};
use crate::secrets::Secret;

const MAX_FILES: usize = 10_000;

/// The documents of one command.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    sources: Vec<Source>,
}

/// A fault, and the file it is in.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(super) struct Located {
    /// `-` is standard input.
    pub(super) file: String,
    /// Zero where it is not known.
    pub(super) line: u64,
    /// Zero where it is not known.
    pub(super) column: u64,
    pub(super) path: String,
    pub(super) problem: String,
}

#[derive(Debug)]
struct Source {
    name: String,
    document: Document,
}

// === impl Inputs ===

impl Inputs {
    /// Reads everything that `paths` name. The inner error lists what is wrong with the documents.
    pub(super) fn read(paths: &[PathBuf]) -> anyhow::Result<Result<Self, Vec<Located>>> {
        let mut inputs = Self::default();
        let mut faults = Vec::new();
        let mut total = 0;
        for path in paths {
            for (name, text) in texts(path)? {
                total += text.len();
                if total > MAX_BYTES {
                    bail!(
                        "the documents have more than {MAX_BYTES} bytes together; apply them in parts"
                    );
                }
                match document::read(&text) {
                    Ok(document) => inputs.sources.push(Source { name, document }),
                    Err(found) => {
                        faults.extend(found.list.iter().map(|fault| located(&name, fault)));
                        if found.omitted > 0 {
                            let problem = format!("and {} more faults", found.omitted);
                            faults.push(Located {
                                file: name,
                                line: 0,
                                column: 0,
                                path: String::new(),
                                problem,
                            });
                        }
                    }
                }
            }
        }
        inputs.find_duplicates(&mut faults);
        Ok(if faults.is_empty() {
            Ok(inputs)
        } else {
            Err(faults)
        })
    }

    /// Every object, in the order of the files.
    pub(super) fn drafts(&self) -> Vec<Draft> {
        self.sources
            .iter()
            .flat_map(|source| source.document.drafts.iter().cloned())
            .collect()
    }

    /// Every object with its secrets as values; what is missing is listed as a whole.
    pub(super) fn resolved(&self) -> Result<Vec<Draft>, Vec<Located>> {
        let mut faults = Vec::new();
        let mut drafts = Vec::new();
        for source in &self.sources {
            for draft in &source.document.drafts {
                let mut draft = draft.clone();
                let object = label(&draft.reference());
                for (i, key) in draft.keys.iter_mut().enumerate() {
                    match resolve(&key.source) {
                        Ok(source) => key.source = source,
                        Err(problem) => faults.push(Located {
                            file: source.name.clone(),
                            line: key.at.line,
                            column: key.at.column,
                            path: format!("{object}.keys[{i}]"),
                            problem,
                        }),
                    }
                }
                drafts.push(draft);
            }
        }
        if faults.is_empty() {
            Ok(drafts)
        } else {
            Err(faults)
        }
    }

    /// Places a fault that was found by its path only.
    pub(super) fn locate(&self, path: &str, problem: &str) -> Located {
        let found = self
            .sources
            .iter()
            .find_map(|source| Some((&source.name, source.document.locator.find(path)?)));
        let (file, at) = found
            .map(|(name, at)| (name.clone(), at))
            .unwrap_or_default();
        let (path, problem) = (path.to_owned(), problem.to_owned());
        Located {
            file,
            line: at.line,
            column: at.column,
            path,
            problem,
        }
    }

    /// Within one document they are faults already.
    fn find_duplicates(&self, faults: &mut Vec<Located>) {
        let mut seen = BTreeMap::new();
        for source in &self.sources {
            for draft in &source.document.drafts {
                let reference = draft.reference();
                let path = label(&reference);
                if let Some((first, at)) = seen.insert(reference, (&source.name, draft.at)) {
                    let problem = format!("this name is taken by the object at {first}:{at}");
                    let fault = Fault {
                        at: draft.at,
                        path,
                        problem,
                    };
                    faults.push(located(&source.name, &fault));
                }
            }
        }
    }
}

// === impl Located ===

impl std::fmt::Display for Located {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{}:", self.file)?;
        }
        if self.line > 0 {
            write!(f, "{}:{}: ", self.line, self.column)?;
        } else if !self.file.is_empty() {
            f.write_str(" ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.problem)
    }
}

// === free functions ===

fn located(name: &str, fault: &Fault) -> Located {
    Located {
        file: name.to_owned(),
        line: fault.at.line,
        column: fault.at.column,
        path: fault.path.clone(),
        problem: fault.problem.clone(),
    }
}

/// The texts that a path names: itself, or the documents of a folder in the order of their names.
fn texts(path: &Path) -> anyhow::Result<Vec<(String, String)>> {
    if path == Path::new("-") {
        return Ok(vec![(
            "-".to_owned(),
            limited(io::stdin().lock(), "standard input")?,
        )]);
    }
    if !path.is_dir() {
        return Ok(vec![read_file(path)?]);
    }
    let doing = || format!("reading the folder {}", path.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(path).with_context(doing)? {
        let file = entry.with_context(doing)?.path();
        let kind = file.extension().and_then(|e| e.to_str());
        if file.is_file() && kind.is_some_and(|kind| ["yaml", "yml", "json"].contains(&kind)) {
            files.push(file);
        }
        if files.len() > MAX_FILES {
            bail!(
                "the folder {} has more than {MAX_FILES} documents",
                path.display()
            );
        }
    }
    if files.is_empty() {
        bail!(
            "the folder {} has no .yaml, .yml or .json files",
            path.display()
        );
    }
    files.sort();
    files.iter().map(|file| read_file(file)).collect()
}

fn read_file(path: &Path) -> anyhow::Result<(String, String)> {
    let name = path.display().to_string();
    let file = fs::File::open(path).with_context(|| format!("opening {name}"))?;
    let text = limited(file, &name)?;
    Ok((name, text))
}

fn limited(input: impl io::Read, name: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    let limit = u64::try_from(MAX_BYTES)? + 1;
    input
        .take(limit)
        .read_to_string(&mut text)
        .with_context(|| format!("reading {name}"))?;
    if text.len() > MAX_BYTES {
        bail!("{name} has more than {MAX_BYTES} bytes; apply it in parts");
    }
    Ok(text)
}

fn resolve(source: &SecretSource) -> Result<SecretSource, String> {
    let value = match source {
        SecretSource::Env(name) => match std::env::var(name) {
            Ok(value) if !value.is_empty() => value,
            Ok(_) => return Err(format!("the environment variable {name} is empty")),
            Err(std::env::VarError::NotPresent) => {
                return Err(format!("the environment variable {name} is not set"));
            }
            Err(std::env::VarError::NotUnicode(_)) => {
                return Err(format!("the environment variable {name} is not text"));
            }
        },
        SecretSource::File(path) => {
            let (_, text) = read_file(Path::new(path)).map_err(|error| format!("{error:#}"))?;
            // Editors and `echo` end a file with a line break that is no part of the secret.
            match text.trim_end_matches(['\r', '\n']) {
                "" => return Err(format!("the file {path} is empty")),
                text => text.to_owned(),
            }
        }
        SecretSource::Value(_) | SecretSource::Stored(_) => return Ok(source.clone()),
    };
    Ok(SecretSource::Value(Secret::new(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn names(faults: &[Located]) -> Vec<String> {
        let short = |fault: &Located| {
            let file = Path::new(&fault.file)
                .file_name()
                .unwrap()
                .to_string_lossy()
                .into_owned();
            format!("{file}:{}:{}: {}", fault.line, fault.column, fault.path)
        };
        faults.iter().map(short).collect()
    }

    #[test]
    fn a_folder_is_read_in_the_order_of_names_and_other_files_are_left_alone() {
        let folder = folder(&[
            ("b.yml", "tenants: [{name: two}]"),
            ("a.yaml", "tenants: [{name: one}]"),
            ("c.json", "{\"tenants\": [{\"name\": \"three\"}]}"),
            ("notes.txt", "not: [a document"),
        ]);
        let inputs = Inputs::read(&[folder.path().to_owned()]).unwrap().unwrap();
        let names: Vec<_> = inputs
            .drafts()
            .iter()
            .map(|d| d.reference().to_string())
            .collect();
        assert_eq!(names, ["tenant one", "tenant two", "tenant three"]);
    }

    #[test]
    fn faults_name_their_file() {
        let folder = folder(&[
            ("a.yaml", "tenants:\n- name: one\n"),
            ("b.yaml", "tenants:\n- name: one\n"),
            ("c.yaml", "\ntenant: []\n"),
        ]);
        let faults = Inputs::read(&[folder.path().to_owned()])
            .unwrap()
            .unwrap_err();
        assert_eq!(
            names(&faults),
            ["c.yaml:2:1: tenant", "b.yaml:2:3: tenants[one]"]
        );
    }

    #[test]
    fn what_is_missing_for_secrets_is_listed_as_a_whole() {
        let folder = folder(&[("secret.txt", "sk-from-a-file\n"), ("empty", "\n")]);
        let at = |name: &str| folder.path().join(name).display().to_string();
        let text = format!(
            "providers:\n- name: p\n  protocol: openai\n  keys:\n  - {{env: MODE_ENVOY_NOT_SET_1}}\n  \
             - {{file: '{}'}}\n  - {{file: '{}'}}\n  - {{env: MODE_ENVOY_NOT_SET_2}}\n",
            at("secret.txt"),
            at("empty")
        );
        fs::write(folder.path().join("p.yaml"), text).unwrap();
        let inputs = Inputs::read(&[folder.path().join("p.yaml")])
            .unwrap()
            .unwrap();
        let faults = inputs.resolved().unwrap_err();
        assert_eq!(
            names(&faults),
            [
                "p.yaml:5:5: providers[p].keys[0]",
                "p.yaml:7:5: providers[p].keys[2]",
                "p.yaml:8:5: providers[p].keys[3]"
            ]
        );
        let secret = resolve(&SecretSource::File(at("secret.txt"))).unwrap();
        assert_eq!(
            secret,
            SecretSource::Value(Secret::new("sk-from-a-file".to_owned()))
        );
    }

    #[test]
    fn a_fault_that_the_cluster_found_is_placed_in_its_file() {
        let folder = folder(&[("a.yaml", "consumers:\n- name: app\n  tenant: acme\n")]);
        let inputs = Inputs::read(&[folder.path().join("a.yaml")])
            .unwrap()
            .unwrap();
        let fault = inputs.locate("consumers[acme/app].tenant", "there is no tenant acme");
        assert!(
            fault
                .to_string()
                .ends_with("a.yaml:3:11: consumers[acme/app].tenant: there is no tenant acme")
        );
        assert_eq!(
            inputs.locate("objects", "too many").to_string(),
            "objects: too many"
        );
    }
}
