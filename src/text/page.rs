//! Options as pages of help name them: in lines `  --name VALUE  meaning`, without `VALUE` for a flag.
//! The pages are the only list of options there is.

/// An option of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// With its dashes.
    pub dashed: &'static str,
    /// What stands for its value; empty for a flag.
    pub value: &'static str,
}

impl Named {
    /// Without its dashes.
    pub fn name(self) -> &'static str {
        self.dashed.trim_start_matches('-')
    }

    /// Whether its value is a list with commas: it may be given again for more.
    pub fn is_list(self) -> bool {
        self.value.ends_with(",...")
    }
}

/// The options that the lines of `page` name, in their order.
pub fn options(page: &'static str) -> Vec<Named> {
    let mut found = Vec::new();
    for line in page.split('\n') {
        let Some(line) = line.strip_prefix("  ").filter(|line| line.starts_with("--")) else {
            continue;
        };
        let mut words = line.split(' ');
        let mut next = || words.next().unwrap_or_default();
        found.push(Named { dashed: next(), value: next() });
    }
    found
}

/// Their names, without the dashes.
pub fn names(options: &[Named]) -> Vec<&'static str> {
    options.iter().map(|option| option.name()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_from_their_lines() {
        let page = "Usage: x [--no]\n\n  --one FILE    --it says\n      --no\n  --two  A flag\n  --three N,...\n";
        let found: Vec<_> =
            options(page).iter().map(|option| (option.name(), option.value)).collect();
        assert_eq!(found, [("one", "FILE"), ("two", ""), ("three", "N,...")]);
    }
}
