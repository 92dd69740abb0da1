//! Reads the project's `Cargo.toml` files: the subset of TOML that they are written in, one dependency a
//! line. What does not fit is an error, so nothing hides behind a notation.

/// Which table of dependencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// `[dependencies]`
    Normal,
    /// `[dev-dependencies]`
    Dev,
    /// `[build-dependencies]`
    Build,
}

/// One line of a table of dependencies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependency {
    /// Which table.
    pub section: Section,
    /// The crate.
    pub name: String,
    /// Version and source come from the workspace's table.
    pub from_workspace: bool,
}

/// What the rules want to know of a crate's manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The package's name.
    pub name: String,
    /// All dependencies.
    pub dependencies: Vec<Dependency>,
    /// `[lints] workspace = true`
    pub workspace_lints: bool,
    /// `publish = false`
    pub unpublished: bool,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// The line that is written in a way the rules cannot see through.
    pub fn parse(text: &str) -> Result<Manifest, String> {
        let mut manifest = Manifest::default();
        let mut table = "";
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(header) = line.strip_prefix('[') {
                table = header.trim_end_matches(']');
                if table.contains("dependencies.") || table.starts_with("target.") {
                    return Err(format!("one dependency a line, in its table: {line}"));
                }
                continue;
            }
            let section = match table {
                "package" => {
                    if let Some(name) = line.strip_prefix("name = ") {
                        manifest.name = name.trim_matches('"').to_owned();
                    }
                    manifest.unpublished |= line == "publish = false";
                    continue;
                }
                "lints" => {
                    manifest.workspace_lints |= line == "workspace = true";
                    continue;
                }
                "dependencies" => Section::Normal,
                "dev-dependencies" => Section::Dev,
                "build-dependencies" => Section::Build,
                _ => continue,
            };
            let Some((key, value)) = line.split_once('=') else {
                return Err(format!("one dependency a line: {line}"));
            };
            let (key, value) = (key.trim(), value.trim());
            let short = key.strip_suffix(".workspace").filter(|_| value == "true");
            let name = short.unwrap_or(key).to_owned();
            let from_workspace = short.is_some() || value.contains("workspace = true");
            manifest.dependencies.push(Dependency { section, name, from_workspace });
        }
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notations() {
        let text = "[package]\nname = \"x\"\npublish = false\n[lints]\nworkspace = true\n\
                    [dependencies]\n# why\na.workspace = true\nb = { workspace = true, features = [\"f\"] }\n\
                    c = \"1\"\n[dev-dependencies]\nd = { version = \"2\" }\n";
        let manifest = Manifest::parse(text).unwrap();
        assert_eq!(manifest.name, "x");
        assert!(manifest.workspace_lints && manifest.unpublished);
        let seen: Vec<(Section, &str, bool)> = manifest
            .dependencies
            .iter()
            .map(|dependency| (dependency.section, &*dependency.name, dependency.from_workspace))
            .collect();
        let expected = [
            (Section::Normal, "a", true),
            (Section::Normal, "b", true),
            (Section::Normal, "c", false),
            (Section::Dev, "d", false),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_cannot_be_seen_through_is_refused() {
        assert!(Manifest::parse("[dependencies.serde]\nversion = \"1\"\n").is_err());
        assert!(Manifest::parse("[target.'cfg(unix)'.dependencies]\nlibc = \"1\"\n").is_err());
        assert!(Manifest::parse("[dependencies]\nserde\n").is_err());
    }
}
