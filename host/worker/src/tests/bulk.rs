//! Operations on much memory: rewritten they do the same, and stop when they are told to.

use std::time::{Duration, Instant};

use sandgate_wire::message::Codegen;
use sandgate_wire::outcome::{KilledBy, TrapKind};
use sandgate_wire::{ModuleLimits, Outcome, Profile};
use wasmtime::{Instance, Memory, Module, Store, TypedFunc};

use super::host::*;
use crate::{bulk, engine, preflight};

const PAGE: u32 = 1 << 16;
/// Three chunks and some.
const PAGES: u32 = 56;
const SEGMENT: u32 = 5 << 19;

/// Each operation as an export that takes its three operands.
fn operations() -> Vec<u8> {
    let text = format!(
        r#"(module (memory (export "memory") {PAGES})
            (func (export "copy") (param i32 i32 i32) (local i64)
                (memory.copy (local.get 0) (local.get 1) (local.get 2)))
            (func (export "fill") (param i32 i32 i32)
                (memory.fill (local.get 0) (local.get 1) (local.get 2)))
            (func (export "init") (param i32 i32 i32)
                (memory.init $segment (local.get 0) (local.get 1) (local.get 2)))
            (func (export "small") (param i32 i32 i32)
                (memory.init $small (local.get 0) (local.get 1) (local.get 2)))
            (func (export "drop") (param i32 i32 i32) (data.drop $segment) (data.drop $small))
            (func (export "dead") (param i32 i32 i32) unreachable memory.copy memory.fill)
            (data $segment "{}") (data $small "abcdefgh"))"#,
        "0123456789abcdef".repeat(SEGMENT as usize / 16)
    );
    wat::parse_str(text).unwrap()
}

struct Guest {
    store: Store<()>,
    instance: Instance,
    memory: Memory,
}

impl Guest {
    fn new(module: &[u8]) -> Guest {
        let engine = engine::for_compiler(Codegen::Interruptible).unwrap();
        let mut store = Store::new(&engine, ());
        store.set_epoch_deadline(1 << 40);
        let instance = Instance::new(&mut store, &Module::new(&engine, module).unwrap(), &[]).unwrap();
        let memory = instance.get_memory(&mut store, "memory").unwrap();
        for (at, byte) in memory.data_mut(&mut store).iter_mut().enumerate() {
            *byte = u8::try_from((at * 7919) >> 5 & 0xff).unwrap();
        }
        Guest { store, instance, memory }
    }

    /// The trap, if it traps.
    fn call(&mut self, name: &str, operands: (u32, u32, u32)) -> Option<wasmtime::Trap> {
        let function: TypedFunc<(u32, u32, u32), ()> = self.instance.get_typed_func(&mut self.store, name).unwrap();
        function.call(&mut self.store, operands).err().map(|error| *error.downcast_ref().unwrap())
    }
}

fn rewritten(module: &[u8]) -> Vec<u8> {
    let checked = preflight::check(module, &ModuleLimits::default(), Profile::MINIMAL).unwrap();
    bulk::rewrite(module, &checked.bulk_bodies).unwrap()
}

/// Numbers that look random, the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from((self.0 >> 33) % u64::from(end)).unwrap()
    }

    /// A place or a length: often near a border.
    fn operand(&mut self) -> u32 {
        let borders = [0, 1, PAGE, 1 << 20, (1 << 20) + 1, 2 << 20, 3 << 20, SEGMENT, PAGES * PAGE, u32::MAX - 8];
        match self.below(4) {
            0 => self.below(PAGES * PAGE + PAGE),
            1 => self.below(1 << 10),
            _ => {
                let border = borders[self.below(10) as usize];
                border.wrapping_add(self.below(9)).wrapping_sub(4)
            }
        }
    }
}

#[test]
fn rewritten_operations_do_the_same() {
    let original = operations();
    let new = rewritten(&original);
    assert_ne!(original, new);
    let mut guests = [Guest::new(&original), Guest::new(&new)];
    let mut numbers = Numbers(1);
    let (mut trapped, mut long) = (0, 0);
    for round in 0..600 {
        let name = ["copy", "fill", "init", "copy", "small"][numbers.below(5) as usize];
        let name = match round {
            500 => "drop",
            501 => "dead",
            _ => name,
        };
        let operands = (numbers.operand(), numbers.operand(), numbers.operand());
        let traps = guests.each_mut().map(|guest| guest.call(name, operands));
        assert_eq!(traps[0], traps[1], "{name} {operands:?}");
        trapped += i32::from(traps[0].is_some());
        long += i32::from(traps[0].is_none() && operands.2 > 1 << 20);
        let [first, second] = &guests;
        assert!(first.memory.data(&first.store) == second.memory.data(&second.store), "{name} {operands:?}");
    }
    assert!(trapped > 100 && long > 30, "{trapped} trapped, {long} were long");
}

#[test]
fn only_what_can_take_long_is_rewritten() {
    for (what, changes) in [
        ("(memory.fill (i32.const 0) (i32.const 0) (local.get 0))", true),
        ("(memory.fill (i32.const 0) (i32.const 0) (i32.const 1048577))", true),
        ("(memory.fill (i32.const 0) (i32.const 0) (i32.const 1048576))", false),
        ("(memory.copy (i32.const 0) (i32.const 0) (i32.const 64))", false),
        ("(memory.copy (i32.const 0) (i32.const 0) (i32.const -1))", true),
        ("(memory.init $small (i32.const 0) (i32.const 0) (local.get 0))", false),
        ("(drop (memory.grow (local.get 0)))", false),
    ] {
        let text = format!(r#"(module (memory 1) (data $small "abc") (func (param i32) {what}))"#);
        let module = wat::parse_str(text).unwrap();
        let untouched = bulk::rewrite(&module, &[]).unwrap();
        assert_eq!(rewritten(&module) != untouched, changes, "{what}");
    }
}

#[test]
fn custom_sections_are_dropped_but_for_the_names_of_functions() {
    let plain = wat::parse_str("(module (func $a) (func $b))").unwrap();
    let text = r#"(module (@custom "x" "0123456789") (func $a (local $l i32)) (func $b) (@custom ".debug_info" "x"))"#;
    let new = rewritten(&wat::parse_str(text).unwrap());
    assert!(new.len() < plain.len() + 10, "{new:?}");
    let module = Module::new(&engine::for_compiler(Codegen::default()).unwrap(), &new).unwrap();
    assert_eq!(module.functions().map(|function| function.name.unwrap().to_owned()).collect::<Vec<_>>(), ["a", "b"]);
    let mut broken = wat::parse_str("(module (func))").unwrap();
    broken.extend_from_slice(b"\0\x0a\x04name\x01\x7f\xff\xff\xff");
    assert_eq!(rewritten(&broken), wat::parse_str("(module (func))").unwrap());
}

#[test]
fn a_trap_in_a_rewritten_operation_names_it_and_its_caller() {
    for (size, expected) in [(70_000, &["start"][..]), (1 << 21, &["memory.fill", "start"])] {
        let text = format!(
            r#"(module (memory (export "memory") 1) (func $start (export "_start") (local i32)
                (memory.fill (i32.const 0) (i32.const 0) (local.tee 0 (i32.const {size})))))"#
        );
        let mut host = Host::new(1);
        let channel = host.start(&text, Call::default());
        let backtrace = expected.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(
            host.done(channel),
            Outcome::Trapped { kind: TrapKind::MemoryOutOfBounds, backtrace, stack_bytes: None }
        );
    }
}

/// The longest it takes to stop a guest that does nothing but this, in several tries.
fn longest_stop(body: &str) -> Duration {
    let text = format!(
        r#"(module
            (import "sandgate_v1" "channel_send" (func $send (param i32 i32 i32 i32 i32 i64) (result i32)))
            (memory (export "memory") 8192) (table $t 100000 funcref) (table $u 100000 funcref) (func $f)
            (elem declare func $f)
            (func (export "_start") (local $n i32)
                (drop {SEND_1})
                (local.set $n (i32.const 0x1ffffff0))
                (loop $again {body} (br $again))))"#
    );
    let mut longest = Duration::ZERO;
    for _ in 0..5 {
        let mut host = Host::new(1);
        let channel = host.start(&text, Call::default());
        host.receive(channel);
        std::thread::park_timeout(Duration::from_millis(20));
        let start = Instant::now();
        host.kill(channel);
        assert_eq!(host.done(channel), Outcome::Killed { by: KilledBy::Kill, started: true });
        longest = longest.max(start.elapsed());
    }
    longest
}

#[test]
fn operations_on_everything_stop_soon() {
    // Without the rewriting one operation takes hundreds of milliseconds; a machine under the load of other tests is given time.
    const BOUND: Duration = Duration::from_millis(150);
    for body in [
        "(memory.fill (i32.const 0) (i32.const 1) (local.get $n))",
        "(memory.copy (i32.const 0) (i32.const 8) (local.get $n))",
        "(memory.copy (i32.const 8) (i32.const 0) (local.get $n))",
        "(table.fill $t (i32.const 0) (ref.func $f) (i32.const 100000))",
        "(table.copy $t $u (i32.const 0) (i32.const 0) (i32.const 100000))",
        "(drop (memory.grow (i32.const 1)))",
        "(drop (table.grow $t (ref.null func) (i32.const 1)))",
    ] {
        let took = longest_stop(body);
        assert!(took < BOUND, "{body} took {took:?} to stop");
    }
}
