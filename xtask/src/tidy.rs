//! A file has at most 800 lines, a function at most 70.

use std::path::{Path, PathBuf};

use anyhow::bail;

const FILE_LINES: usize = 800;
const FUNCTION_LINES: usize = 70;

pub(crate) fn check(root: &Path) -> anyhow::Result<()> {
    let mut files = Vec::new();
    for folder in ["crates", "apps", "xtask", "bench", "examples"] {
        collect(&root.join(folder), &mut files)?;
    }
    let mut faults = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file)?;
        let name = file.strip_prefix(root).unwrap_or(file).display().to_string();
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() > FILE_LINES {
            faults.push(format!("{name}: {} lines, limit is {FILE_LINES}", lines.len()));
        }
        faults.extend(
            long_functions(&lines)
                .into_iter()
                .map(|(line, length)| format!("{name}:{line}: function of {length} lines, limit is {FUNCTION_LINES}")),
        );
    }
    if !faults.is_empty() {
        bail!("not tidy:\n  {}", faults.join("\n  "));
    }
    println!("tidy: {} files", files.len());
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() {
            if !name.starts_with("target") && name != "node_modules" && !name.starts_with('.') {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// First line and length of functions over the limit. Relies on rustfmt: a function ends at the first line that is
/// its own indentation and a closing brace.
fn long_functions(lines: &[&str]) -> Vec<(usize, usize)> {
    let mut long = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        if !is_function(trimmed) || line.ends_with(';') {
            continue;
        }
        let indentation = &line[..line.len() - trimmed.len()];
        let closing = format!("{indentation}}}");
        let Some(length) = lines[start..].iter().position(|candidate| **candidate == closing) else { continue };
        if length + 1 > FUNCTION_LINES {
            long.push((start + 1, length + 1));
        }
    }
    long
}

fn is_function(line: &str) -> bool {
    let mut words = line.split_whitespace().skip_while(|word| {
        word.starts_with("pub") || ["const", "async", "unsafe", "extern", "\"C\"", "crate)", "super)"].contains(word)
    });
    words.next() == Some("fn")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_over_the_limit_is_found_at_its_line() {
        let body = "    x();\n".repeat(FUNCTION_LINES);
        let text = format!("use a;\n\npub(crate) async fn long() {{\n{body}}}\n\nfn short() {{\n    x();\n}}\n");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(long_functions(&lines), [(3, FUNCTION_LINES + 2)]);
    }
}
