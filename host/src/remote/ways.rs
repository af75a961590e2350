//! Where gateways start from: `via=` names another gateway, whose way is the beginning of this one's.

use std::collections::HashMap;

use super::route::Step;
use crate::error::GatewayError;
use crate::spec::Spec;

/// Gives every spec its way. `known` has those of gateways that are there; specs may name each other, in any order.
pub(crate) fn find(specs: &mut [Spec], mut known: HashMap<String, Vec<Step>>) -> Result<(), GatewayError> {
    let mut waiting: Vec<&mut Spec> = specs.iter_mut().filter(|spec| !spec.has_way()).collect();
    while !waiting.is_empty() {
        let before = waiting.len();
        waiting.retain_mut(|spec| {
            let way = spec.starts_from().map_or(Some(Vec::new()), |via| known.get(via).cloned());
            let Some(way) = way else { return true };
            **spec = spec.clone().follow(&way);
            known.insert(spec.given_id().unwrap_or_default().to_owned(), spec.route().to_vec());
            false
        });
        if let Some(spec) = waiting.first().filter(|_| waiting.len() == before) {
            let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
            return Err(GatewayError::NoSuchWay { id: text(spec.given_id()), via: text(spec.starts_from()) });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(texts: &[&str]) -> Result<Vec<Vec<String>>, String> {
        let mut specs: Vec<Spec> = texts.iter().map(|text| text.parse().unwrap()).collect();
        find(&mut specs, HashMap::new()).map_err(|error| error.to_string())?;
        Ok(specs.iter().map(|spec| spec.route().iter().map(Step::name).collect()).collect())
    }

    #[test]
    fn a_way_begins_with_that_of_the_gateway_it_starts_from() {
        let found = names(&[
            "ssh=inner//id=b//via=a",
            "ssh=outer//id=a//via=c",
            "popen//id=c",
            "popen//id=d//via=b",
            "exec=x y//id=e//via=d",
        ]);
        let (outer, inner, exec) = ("ssh=outer".to_owned(), "ssh=inner".to_owned(), "exec=x".to_owned());
        let expected = vec![
            vec![outer.clone(), inner.clone()],
            vec![outer.clone()],
            vec![],
            vec![outer.clone(), inner.clone()],
            vec![outer, inner, exec],
        ];
        assert_eq!(found, Ok(expected));
    }

    #[test]
    fn a_way_has_to_begin_somewhere() {
        for texts in
            [&["popen//id=a//via=b"][..], &["popen//id=a//via=b", "popen//id=b//via=a"], &["popen//id=a//via=a"]]
        {
            assert!(names(texts).unwrap_err().contains("gateway `a` is to start from"), "{texts:?}");
        }
    }
}
