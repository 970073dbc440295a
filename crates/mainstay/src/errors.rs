//! The pages of the codes that the command line and the admin API use; those of the stack file are the stack
//! crate's; and those of the SQLSTATEs of the router. A code keeps its meaning for ever.

macro_rules! pages {
    ($name:ident: $($code:literal)+) => {
        const $name: &[(&str, &str)] =
            &[$(($code, include_str!(concat!("../../../docs/errors/", $code, ".md"))),)+];
    };
}

pages! {
    PAGES:
    "MS1001"
    "MS1002"
    "MS1003"
    "MS1004"
    "MS1005"
    "MS1006"
    "MS1007"
    "MS1008"
    "MS1009"
    "MS1010"
    "MS1011"
    "MS1012"
    "MS1013"
    "MS1014"
    "MS1060"
    "MS1061"
    "MS2000"
    "MS2001"
    "MS2002"
    "MS2003"
    "MS2004"
    "MS2005"
    "MS2006"
    "MS2010"
    "MS2011"
    "MS2012"
    "MS2020"
    "MS2021"
    "MS2022"
    "MS2025"
    "MS2026"
    "MS2027"
    "MS2028"
    "MS2030"
    "MS2031"
    "MS2032"
    "MS2033"
    "MS2090"
    "MS2091"
    "MS2092"
    "MS3001"
    "MS3002"
    "MS3003"
    "MS3004"
    "MS3010"
    "MS3020"
    "MS3021"
    "MS3022"
    "MS3023"
    "MS3030"
    "MS3031"
    "MS3032"
    "MS3033"
    "MS3034"
    "MS3035"
    "MS3036"
    "MS3041"
    "MS4001"
    "MS4002"
    "MS4003"
    "MS4004"
    "MS4005"
    "MS4006"
    "MS4010"
    "MS4011"
    "MS4012"
    "MS4040"
    "MS4041"
    "MS4042"
    "MS4043"
    "MS4044"
    "MS4210"
    "MS5000"
    "MS5030"
    "MS5031"
    "MS7000"
    "MS1070"
    "MS1110"
    "MS1111"
    "MS1112"
    "MS1113"
    "MS1130"
    "MS1131"
    "MS1132"
    "MS2110"
    "MS2130"
    "MS3110"
    "MS3111"
    "MS3112"
    "MS3130"
    "MS3131"
    "MS4110"
    "MS4111"
    "MS4130"
    "MS2070"
    "MS2071"
    "MS2072"
    "MS2073"
    "MS3070"
    "MS3071"
    "MS3072"
    "MS3073"
    "MS4070"
    "MS2050"
    "MS2051"
    "MS2052"
    "MS3050"
    "MS4045"
    "MS4046"
    "MS4048"
    "MS4095"
    "MS1080"
    "MS1081"
    "MS1090"
    "MS2080"
    "MS4090"
    "MS4091"
    "MS4020"
    "MS3040"
    "MS3042"
    "MS4092"
    "MS1120"
    "MS1121"
    "MS1122"
    "MS2120"
    "MS2121"
    "MS4120"
    "MS4121"
    "MS4122"
    "MS4123"
    "MS4124"
    "MS4125"
    "MS4126"
    "MS2140"
    "MS4047"
    "MS4093"
    "MS4094"
    "MS1140"
    "MS2141"
    "MS3140"
    "MS4140"
    "MS4141"
    "MS4142"
    "MS4143"
    "MS4144"
    "MS6400"
    "MS6401"
    "MS6403"
    "MS6404"
    "MS6405"
    "MS6408"
    "MS6413"
    "MS6421"
    "MS6429"
    "MS6431"
    "MS6500"
    "MS6502"
    "MS6503"
    "MS6504"
}

// What clients of the database are told by the router, or because of it.
pages! {
    SQLSTATES:
    "08007"
    "08P01"
    "0A000"
    "22P02"
    "26000"
    "28P01"
    "3D000"
    "40001"
    "53300"
    "57P01"
    "57P02"
    "57P03"
}

/// Whether this has the form of a SQLSTATE: five digits and letters, as PostgreSQL gives its errors.
pub(crate) fn is_sqlstate(code: &str) -> bool {
    code.len() == 5 && code.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Every code with its page.
pub(crate) fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    PAGES.iter().chain(SQLSTATES).copied().chain(mainstay_stack::pages())
}

/// The page of a code, given as people type it.
pub(crate) fn explain(code: &str) -> Option<&'static str> {
    let mut ours = PAGES.iter().chain(SQLSTATES);
    let ours = ours.find(|(known, _)| known.eq_ignore_ascii_case(code)).map(|(_, page)| *page);
    ours.or_else(|| mainstay_stack::explain(code))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// Every `"MSnnnn"` in the sources below a folder.
    fn codes_in(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).expect("sources").flatten() {
            let path = entry.path();
            if path.is_dir() {
                codes_in(&path, found);
            } else if path.file_name().is_some_and(|name| name != "errors.rs") {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                let is_code = |text: &&str| {
                    text.len() == 6 && text.starts_with("MS") && text[2..].bytes().all(|byte| byte.is_ascii_digit())
                };
                found.extend(text.split('"').filter(is_code).map(str::to_owned));
            }
        }
    }

    fn used() -> BTreeSet<String> {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut found = BTreeSet::new();
        for one in std::fs::read_dir(crates).expect("the crates").flatten() {
            // The application side has codes of its own.
            if one.file_name() != "mainstay-kit" && one.path().join("src").is_dir() {
                codes_in(&one.path().join("src"), &mut found);
            }
        }
        // Tests ask for this one because it never is.
        found.remove("MS9999");
        found
    }

    #[test]
    fn every_file_in_docs_errors_is_the_page_of_a_code_in_use() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors");
        let mut files = BTreeSet::new();
        for entry in std::fs::read_dir(folder).expect("the pages").flatten() {
            let path = entry.path();
            assert!(path.extension().is_some_and(|extension| extension == "md"), "{} is no page", path.display());
            let code = path.file_stem().expect("a name").to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).expect("readable");
            assert_eq!(explain(&code), Some(text.as_str()), "{code} is not what `mainstay explain` prints");
            files.insert(code);
        }
        let pages_of_router: BTreeSet<String> = SQLSTATES.iter().map(|(code, _)| (*code).to_owned()).collect();
        let known: BTreeSet<String> = used().union(&pages_of_router).cloned().collect();
        let unused: Vec<_> = files.difference(&known).cloned().collect();
        assert!(unused.is_empty(), "pages of codes that nothing says: {unused:?}");
    }

    #[test]
    fn every_page_says_what_it_means_shows_it_and_says_what_to_do() {
        let all = used().into_iter().chain(SQLSTATES.iter().map(|(code, _)| (*code).to_owned()));
        let pages = all.map(|code| (explain(&code).expect("a page"), code));
        for (page, code) in pages {
            let parts: Vec<&str> = page.split("\n## ").collect();
            let [meaning, example, mending] = parts.as_slice() else { panic!("{code} has {} parts", parts.len()) };
            let prose = |part: &str| part.lines().skip(1).filter(|line| !line.trim().is_empty()).count();
            assert!(prose(meaning) >= 1, "{code} does not say what it means");
            assert!(example.starts_with("Example\n") && example.matches("```").count() >= 2, "{code} has no example");
            assert!(mending.starts_with("How to mend it\n") && prose(mending) >= 1, "{code} does not say what to do");
        }
    }

    #[test]
    fn every_code_in_use_has_a_page() {
        let used = used();
        assert!(used.len() > 40, "the sources were not found: {used:?}");
        let without: Vec<&String> = used.iter().filter(|code| explain(code).is_none()).collect();
        assert!(without.is_empty(), "codes without a page: {without:?}");
    }

    #[test]
    fn every_page_is_of_a_code_in_use_and_has_meaning_example_and_mending() {
        let used = used();
        for (code, page) in PAGES {
            assert!(used.contains(*code), "nothing says {code} any more");
            assert!(page.starts_with(&format!("# {code}: ")), "{code} has no title");
            for part in ["\n## Example\n", "\n## How to mend it\n"] {
                assert!(page.contains(part), "{code} lacks {part:?}");
            }
        }
    }

    /// Every SQLSTATE that stands in the router's own code, its tests left out.
    fn sqlstates_in(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).expect("the router's sources").flatten() {
            let path = entry.path();
            if path.is_dir() {
                sqlstates_in(&path, found);
            } else if path.file_name().is_some_and(|name| name != "tests.rs") {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                let text = text.split("#[cfg(test)]").next().unwrap_or_default();
                let is_code = |text: &&str| {
                    is_sqlstate(text)
                        && text.starts_with(|first: char| first.is_ascii_digit())
                        && *text == text.to_uppercase()
                };
                found.extend(text.split('"').filter(is_code).map(str::to_owned));
            }
        }
    }

    #[test]
    fn every_sqlstate_that_the_router_can_send_has_a_page_that_says_whether_to_retry() {
        let mut sent = BTreeSet::new();
        sqlstates_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../mainstay-router/src"), &mut sent);
        assert!(sent.len() >= 10 && sent.contains("08007"), "the router's codes were not found: {sent:?}");
        let without: Vec<&String> = sent.iter().filter(|code| explain(code).is_none()).collect();
        assert!(without.is_empty(), "the router sends these, and they have no page: {without:?}");
        for (code, page) in SQLSTATES {
            assert!(page.starts_with(&format!("# {code}: ")), "{code} has no title");
            let (_, mending) = page.split_once("## How to mend it").expect("a part that says what to do");
            let is_said = ["Retrying", "retry", "repeat", "Connect again"].iter().any(|word| mending.contains(word));
            assert!(is_said, "{code} does not say whether to retry");
            assert!(mending.contains("`mainstay "), "{code} names no next command");
        }
    }

    #[test]
    fn stack_file_codes_are_explained_too_in_either_case() {
        assert!(explain("ms0020").is_some_and(|page| page.starts_with("# MS0020")));
        assert!(explain("ms4001").is_some_and(|page| page.starts_with("# MS4001")));
        assert!(explain("57p03").is_some_and(|page| page.starts_with("# 57P03")));
        assert_eq!(explain("MS9999"), None);
        assert_eq!(explain("42P01"), None);
    }
}
