//! The functions of libm that engines call, for programs that run an engine without a C library.
//!
//! exp, exp2, log, log2, log10, sin, cos, tan, fma, fmod, floor, ceil, round, trunc, sqrt, fmax, fmin, fabs, memcpy,
//! memmove and memset come from Zig's own compiler runtime, the others from its standard library. Engines on a device
//! use the device's libm instead.
//!
//! SPDX-License-Identifier: Apache-2.0
const std = @import("std");
const math = std.math;

comptime {
    for (.{ f32, f64 }) |T| {
        const suffix = if (T == f32) "f" else "";
        const unary = .{
            .{ "acos", math.acos },   .{ "acosh", math.acosh }, .{ "asin", math.asin }, .{ "asinh", math.asinh },
            .{ "atan", math.atan },   .{ "atanh", math.atanh }, .{ "cbrt", math.cbrt }, .{ "cosh", math.cosh },
            .{ "expm1", math.expm1 }, .{ "log1p", math.log1p }, .{ "sinh", math.sinh }, .{ "tanh", math.tanh },
            .{ "erf", erf },          .{ "erfc", erfc },        .{ "rint", rint },      .{ "nearbyint", rint },
            .{ "roundeven", rint },
        };
        for (unary) |row| export_unary(T, row[0] ++ suffix, row[1]);
        export_unary(T, "tgamma" ++ suffix, Typed(T).tgamma);
        export_unary(T, "lgamma" ++ suffix, Typed(T).lgamma);
        export_unary(T, "exp10" ++ suffix, Typed(T).exp10);
        @export(&Typed(T).atan2, .{ .name = "atan2" ++ suffix });
        @export(&Typed(T).pow, .{ .name = "pow" ++ suffix });
        @export(&Typed(T).hypot, .{ .name = "hypot" ++ suffix });
        @export(&Typed(T).copysign, .{ .name = "copysign" ++ suffix });
        @export(&Typed(T).remainder, .{ .name = "remainder" ++ suffix });
        @export(&Typed(T).ldexp, .{ .name = "ldexp" ++ suffix });
    }
}

fn export_unary(comptime T: type, comptime name: []const u8, comptime function: anytype) void {
    const Wrapped = struct {
        fn call(x: T) callconv(.c) T {
            return function(x);
        }
    };
    @export(&Wrapped.call, .{ .name = name });
}

fn Typed(comptime T: type) type {
    return struct {
        fn atan2(y: T, x: T) callconv(.c) T {
            return math.atan2(y, x);
        }
        fn pow(x: T, y: T) callconv(.c) T {
            return math.pow(T, x, y);
        }
        fn hypot(x: T, y: T) callconv(.c) T {
            return math.hypot(x, y);
        }
        fn copysign(x: T, y: T) callconv(.c) T {
            return math.copysign(x, y);
        }
        fn ldexp(x: T, n: c_int) callconv(.c) T {
            return math.ldexp(x, n);
        }
        fn remainder(x: T, y: T) callconv(.c) T {
            return x - rint(x / y) * y;
        }
        fn tgamma(x: T) T {
            return math.gamma(T, x);
        }
        fn lgamma(x: T) T {
            return math.lgamma(T, x);
        }
        fn exp10(x: T) T {
            return math.pow(T, 10, x);
        }
    };
}

/// Round half to even: adding 2^mantissa leaves no bits for a fraction.
fn rint(x: anytype) @TypeOf(x) {
    const T = @TypeOf(x);
    const big: T = 1.0 / math.floatEps(T);
    if (math.isNan(x) or @abs(x) >= big) return x;
    var sum: T = @abs(x) + big;
    std.mem.doNotOptimizeAway(&sum);
    return math.copysign(sum - big, x);
}

fn erf(x: anytype) @TypeOf(x) {
    return @floatCast(erf_wide(x));
}

fn erfc(x: anytype) @TypeOf(x) {
    return @floatCast(if (x < 2.5) 1.0 - erf_wide(x) else erfc_tail(x));
}

/// Below 2.5 the series 2/sqrt(pi) exp(-x^2) sum 2^n x^(2n+1) / (2n+1)!!, whose terms are all positive.
fn erf_wide(x: f64) f64 {
    const a = @abs(x);
    if (math.isNan(x)) return x;
    if (a >= 2.5) return math.copysign(1.0 - erfc_tail(a), x);
    var term: f64 = a;
    var sum: f64 = a;
    var n: f64 = 1;
    while (term > sum * 1e-17) : (n += 1) {
        term *= 2 * a * a / (2 * n + 1);
        sum += term;
    }
    return math.copysign(2.0 / @sqrt(math.pi) * @exp(-a * a) * sum, x);
}

/// The continued fraction of erfc, evaluated from its 60th level; for x of 2.5 and above that is exact to 1e-15.
fn erfc_tail(x: f64) f64 {
    if (x > 27) return 0;
    var fraction: f64 = x;
    var level: f64 = 60;
    while (level > 0) : (level -= 1) fraction = x + level / 2 / fraction;
    return @exp(-x * x) / (@sqrt(math.pi) * fraction);
}
