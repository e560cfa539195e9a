//! How a finding stands to the classes of the identities that its process has.

use muster_model::{AgentClass, ClassName, SelectorSet, Sighted, SightingStanding, Word};

/// How what was seen stands to the roll.
///
/// `classes` are those of its identities, that exist; `meant` are active classes of which a process
/// with its facts is an agent, by what the class says of attestation; `is_product` says whether a
/// name is that of a product of the table.
///
/// The class is wrong if there is none; if others are meant; if it says of its agents what does not
/// hold for this process; or if it is called as another product is. Where it is not, each class that
/// fits must allow the providers for which the process was started.
pub fn standing(
    seen: &Sighted,
    classes: &[&AgentClass],
    meant: &[&ClassName],
    is_product: impl Fn(&str) -> bool,
) -> SightingStanding {
    if seen.identities.is_empty() {
        return SightingStanding::Unregistered;
    }
    let looks_like = |name: &str| {
        let mut products = std::iter::once(&seen.product).chain(&seen.also);
        products.any(|product| product.as_str() == name)
    };
    let fits = |class: &&AgentClass| {
        let name = class.name.as_str();
        let other_product = is_product(name) && !looks_like(name);
        let other_meant = !meant.is_empty() && !meant.contains(&&class.name);
        let told = &class.spec.attestation;
        let contradicts = !told.is_empty() && whole(&seen.facts) && !told.is_subset(&seen.facts);
        !other_product && !other_meant && !contradicts
    };
    let mut fitting = classes
        .iter()
        .copied()
        .filter(|class| fits(class))
        .peekable();
    if fitting.peek().is_none() {
        SightingStanding::WrongClass
    } else if fitting.any(|class| not_allowed(seen, class).next().is_some()) {
        SightingStanding::ProviderNotAllowed
    } else {
        SightingStanding::Registered
    }
}

/// The providers for which the process was started and that the class does not allow; one that
/// names none allows none.
pub fn not_allowed<'a>(seen: &'a Sighted, class: &'a AgentClass) -> impl Iterator<Item = &'a Word> {
    let allowed = &class.spec.allowed_providers;
    seen.providers
        .iter()
        .filter(move |provider| !allowed.contains(*provider))
}

/// Whether all facts are there: a node leaves out what is too much.
fn whole(facts: &SelectorSet) -> bool {
    facts.len() < Sighted::MOST_FACTS
}
