//! A few things by their names: a list, because a tree's code is larger than all that would be in it.

/// Things by name, in the order in which they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByName<T>(Vec<(&'static str, T)>);

impl<T> Default for ByName<T> {
    fn default() -> Self {
        ByName(Vec::new())
    }
}

impl<T> ByName<T> {
    /// The thing of this name.
    pub fn get(&self, name: &str) -> Option<&T> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, thing)| thing)
    }

    /// Whether there is one of this name.
    pub fn contains_key(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Puts a thing in the place of the one that had its name, which it gives back.
    pub fn insert(&mut self, name: &'static str, thing: T) -> Option<T> {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => Some(std::mem::replace(known, thing)),
            None => {
                self.0.push((name, thing));
                None
            }
        }
    }

    /// Takes the thing of this name out.
    pub fn remove(&mut self, name: &str) -> Option<T> {
        let place = self.0.iter().position(|(known, _)| *known == name)?;
        Some(self.0.remove(place).1)
    }

    /// All of them.
    pub fn iter(&self) -> std::slice::Iter<'_, (&'static str, T)> {
        self.0.iter()
    }
}

impl<T> FromIterator<(&'static str, T)> for ByName<T> {
    fn from_iter<I: IntoIterator<Item = (&'static str, T)>>(things: I) -> Self {
        let mut by_name = ByName::default();
        for (name, thing) in things {
            by_name.insert(name, thing);
        }
        by_name
    }
}

impl<T> IntoIterator for ByName<T> {
    type Item = (&'static str, T);
    type IntoIter = std::vec::IntoIter<(&'static str, T)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
