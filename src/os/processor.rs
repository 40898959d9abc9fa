//! On 32-bit Arm: a processor that lacks what this program is compiled for is told so in a sentence. Without that
//! it would end by SIGILL, in the C library's start already, and say nothing.
//!
//! So this is the program's entry (`build.rs` tells the linker), before the C library's own, and made of
//! instructions that every Arm has had since ARMv4. It reads AT_HWCAP and AT_PLATFORM from what the kernel puts on
//! the stack (getauxval(3)), and leaves the registers as the C library's entry wants them.

#![expect(unsafe_code, reason = "before the C library has begun there is nothing but instructions")]

use core::arch::global_asm;

/// The bit of AT_HWCAP (arch/arm/include/uapi/asm/hwcap.h): the floating-point unit, in its third version for ARMv7.
#[cfg(armv7)]
const UNIT: u32 = 1 << 13;
#[cfg(not(armv7))]
const UNIT: u32 = 1 << 6;

/// The digit of AT_PLATFORM, which is such as "v7l".
#[cfg(armv7)]
const DIGIT: u8 = b'7';
#[cfg(not(armv7))]
const DIGIT: u8 = b'6';

#[cfg(armv7)]
macro_rules! sentence {
    () => {
        "iofog-connector: this program is for ARMv7 with VFPv3, which this processor lacks (Raspberry Pi 1 and Zero are ARMv6); the one for armv6 runs here"
    };
}
#[cfg(not(armv7))]
macro_rules! sentence {
    () => {
        "iofog-connector: this program is for ARMv6 with VFPv2, and this processor is older or has no such floating-point unit; it can be built on this machine from its sources"
    };
}

global_asm!(
    ".section .text.iofog_connector_entry, \"ax\", %progbits",
    ".arm",
    ".balign 4",
    ".globl iofog_connector_entry",
    ".type iofog_connector_entry, %function",
    "iofog_connector_entry:",
    "ldr r5, [sp]", // The number of arguments; after them a zero, and the environment, which ends with another.
    "add r4, sp, #8",
    "add r4, r4, r5, lsl #2",
    "1: ldr r5, [r4], #4",
    "cmp r5, #0",
    "bne 1b",
    "mov r8, #{unit}", // What is not told counts as good.
    "mov r9, #0",
    "2: ldr r5, [r4], #4", // Pairs of a kind and a value.
    "ldr r6, [r4], #4",
    "cmp r5, #16", // AT_HWCAP
    "moveq r8, r6",
    "cmp r5, #15", // AT_PLATFORM
    "moveq r9, r6",
    "cmp r5, #0",
    "bne 2b",
    "tst r8, #{unit}",
    "beq 3f",
    "cmp r9, #0",
    "beq 5f",
    "ldrb r9, [r9, #1]",
    "cmp r9, #{digit}",
    "bhs 5f",
    "3: mov r0, #2",
    "adr r1, 4f",
    "mov r2, #{length}",
    "mov r7, #4", // write(2)
    "svc #0",
    "mov r0, #2", // As for settings with a fault: nothing that another start mends.
    "mov r7, #1", // _exit(2)
    "svc #0",
    "5: b _start",
    concat!("4: .ascii \"", sentence!(), "\\n\""),
    ".balign 4",
    ".size iofog_connector_entry, . - iofog_connector_entry",
    ".text",
    unit = const UNIT,
    digit = const DIGIT,
    length = const sentence!().len() + 1,
);

/// What one `mov` of ARMv4 can hold.
const _: () = assert!(sentence!().len() < 255);
