//! Values of scripts as values of messages, and back.

use std::collections::BTreeMap;

use guest_protocol::ScriptValue;
use rhai::{Array, Blob, Dynamic, ImmutableString, Map};

/// How deep lists and maps may lie in each other.
const MAX_DEPTH: usize = 64;

/// What a script sees of a message.
pub(crate) fn to_script(value: ScriptValue) -> Dynamic {
    match value {
        ScriptValue::Unit => Dynamic::UNIT,
        ScriptValue::Bool(value) => value.into(),
        ScriptValue::Int(value) => value.into(),
        ScriptValue::Float(value) => value.into(),
        ScriptValue::Text(value) => value.into(),
        ScriptValue::Bytes(value) => Dynamic::from_blob(value),
        ScriptValue::List(values) => Dynamic::from_array(values.into_iter().map(to_script).collect()),
        ScriptValue::Map(values) => {
            let map: Map = values.into_iter().map(|(key, value)| (key.into(), to_script(value))).collect();
            Dynamic::from_map(map)
        }
    }
}

/// What the host is sent of a script's value; the error is the name of a type that cannot be sent.
pub(crate) fn to_host(value: Dynamic) -> Result<ScriptValue, String> {
    at_depth(value, 0)
}

fn at_depth(value: Dynamic, depth: usize) -> Result<ScriptValue, String> {
    if depth > MAX_DEPTH {
        return Err(format!("value that is deeper than {MAX_DEPTH} levels"));
    }
    let name = value.type_name();
    let value = match value.try_cast_result::<Array>() {
        Ok(array) => {
            let items = array.into_iter().map(|item| at_depth(item, depth + 1));
            return Ok(ScriptValue::List(items.collect::<Result<_, _>>()?));
        }
        Err(value) => value,
    };
    let value = match value.try_cast_result::<Map>() {
        Ok(map) => {
            let items = map.into_iter().map(|(key, item)| Ok((key.to_string(), at_depth(item, depth + 1)?)));
            return Ok(ScriptValue::Map(items.collect::<Result<BTreeMap<_, _>, String>>()?));
        }
        Err(value) => value,
    };
    let value = match value.try_cast_result::<Blob>() {
        Ok(bytes) => return Ok(ScriptValue::Bytes(bytes)),
        Err(value) => value,
    };
    let value = match value.try_cast_result::<ImmutableString>() {
        Ok(text) => return Ok(ScriptValue::Text(text.to_string())),
        Err(value) => value,
    };
    if value.is_unit() {
        return Ok(ScriptValue::Unit);
    }
    let plain = value.as_bool().map(ScriptValue::Bool);
    let plain = plain.or_else(|_| value.as_int().map(ScriptValue::Int));
    let plain = plain.or_else(|_| value.as_float().map(ScriptValue::Float));
    plain
        .or_else(|_| value.as_char().map(|character| ScriptValue::Text(character.into())))
        .map_err(|_| format!("value of type `{name}`"))
}
