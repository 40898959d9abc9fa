//! From the policy to the program that the kernel runs at each system call: classic BPF
//! (seccomp(2), struct seccomp_data).

use super::policy::{CALLS, Call, For, Machine, Rule};

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Instruction {
    pub(super) code: u16,
    pub(super) when: u8,
    pub(super) otherwise: u8,
    pub(super) value: u32,
}

/// Loads 32 bits of the call at an offset.
pub(super) const LOAD: u16 = 0x20;
/// Keeps the bits of a mask.
pub(super) const AND: u16 = 0x54;
/// Goes on so many instructions further.
pub(super) const JUMP: u16 = 0x05;
pub(super) const IF_EQUAL: u16 = 0x15;
pub(super) const IF_AT_LEAST: u16 = 0x35;
/// Gives the answer.
pub(super) const RETURN: u16 = 0x06;

pub(super) const NUMBER: u32 = 0;
pub(super) const MACHINE: u32 = 4;
/// Of the first argument, on a little-endian machine; each has 64 bits.
pub(super) const ARGUMENTS: u32 = 16;

pub(super) const ALLOW: u32 = 0x7fff_0000;
/// Allowed, with a line in the kernel's log.
pub(super) const LOG: u32 = 0x7ffc_0000;
/// The process ends as by SIGSYS, with a line in the kernel's log; before Linux 4.14 the thread alone does.
pub(super) const KILL: u32 = 0x8000_0000;
pub(super) const ERROR: u32 = 0x0005_0000;

/// Numbers from here on are x32's, which no program of this kind uses.
const X32: u32 = 0x4000_0000;

/// For whom a program is made.
#[derive(Clone, Copy)]
pub(super) struct Process {
    pub(super) who: For,
    /// Whether the C library may load what looks names up.
    pub(super) loads: bool,
    /// Whether it opens ports after its start.
    pub(super) listens: bool,
    /// Whether the C library is musl.
    pub(super) musl: bool,
    /// Its number.
    pub(super) own: u32,
}

/// The program: what is not allowed is answered with `refusal`.
pub(super) fn program(machine: Machine, process: Process, refusal: u32) -> Vec<Instruction> {
    let does = |code, value| Instruction { code, when: 0, otherwise: 0, value };
    let equal = |value, when, otherwise| Instruction { code: IF_EQUAL, when, otherwise, value };
    let mut all = Vec::with_capacity(160);
    all.extend([
        does(LOAD, MACHINE),
        equal(machine.audit(), 1, 0),
        does(RETURN, refusal),
        does(LOAD, NUMBER),
    ]);
    if machine == Machine::X86_64 {
        all.push(Instruction { code: IF_AT_LEAST, when: 0, otherwise: 1, value: X32 });
        all.push(does(RETURN, refusal));
    }
    let rule = |rule| match rule {
        Rule::Memory if process.loads => Rule::Any,
        Rule::Port | Rule::Musl => Rule::Any,
        rule => rule,
    };
    let is_for = |call: &&Call| {
        (call.who == For::Both || call.who == process.who)
            && (call.rule != Rule::Port || process.listens)
            && (call.rule != Rule::Musl || process.musl)
    };
    let allowed = || CALLS.iter().filter(is_for);
    // Bytes to peers first: since its arguments are looked at, the kernel runs the program each time.
    let [bytes, others] = [true, false].map(|is| {
        let looked_at = allowed().filter(|call| rule(call.rule) != Rule::Any);
        looked_at.filter(move |call| (call.rule == Rule::Bytes) == is)
    });
    let look = |call: &Call, all: &mut Vec<Instruction>| {
        let mut looks: Vec<Instruction> = Vec::new();
        // What one of them allows is allowed.
        let rules: &[Rule] = match call.rule {
            Rule::Socket if !process.loads => &[Rule::Local, Rule::Stream],
            ref rule => std::slice::from_ref(rule),
        };
        for (index, rule) in rules.iter().enumerate() {
            let begin = looks.len();
            let (conditions, count) = rule.conditions(process.own);
            for condition in &conditions[..count] {
                looks.push(does(LOAD, ARGUMENTS + 8 * condition.argument));
                looks.push(does(AND, condition.mask));
                let values = &condition.one_of[..condition.count];
                for (value, left) in values.iter().zip((1..=values.len() as u8).rev()) {
                    looks.push(equal(*value, left, 0));
                }
                looks.push(if index + 1 == rules.len() {
                    does(RETURN, refusal)
                } else {
                    does(JUMP, 0)
                });
            }
            looks.push(does(
                RETURN,
                match rule {
                    Rule::Absent => ERROR | libc::ENOSYS as u32,
                    Rule::Tried if refusal == KILL => ERROR | libc::EPERM as u32,
                    Rule::Tried => refusal,
                    _ => ALLOW,
                },
            ));
            let end = looks.len();
            for (at, one) in looks.iter_mut().enumerate().skip(begin) {
                if one.code == JUMP {
                    one.value = (end - at - 1) as u32;
                }
            }
        }
        for number in call.numbers(machine) {
            all.push(equal(number, 0, looks.len() as u8));
            all.extend(&looks);
        }
    };
    bytes.for_each(|call| look(call, &mut all));
    // What is allowed whatever its arguments leads to one place behind the list.
    let simple = allowed().filter(|call| rule(call.rule) == Rule::Any);
    let simple: Vec<u32> = simple.flat_map(|call| call.numbers(machine)).collect();
    let count = simple.len();
    let further = |index: usize| u8::try_from(count - index).unwrap_or(u8::MAX);
    all.extend(
        simple.into_iter().enumerate().map(|(index, value)| equal(value, further(index), 0)),
    );
    all.extend([does(JUMP, 1), does(RETURN, ALLOW)]);
    others.for_each(|call| look(call, &mut all));
    all.push(does(RETURN, refusal));
    all
}
