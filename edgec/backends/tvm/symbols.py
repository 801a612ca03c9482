"""The functions that an engine may leave to the system it runs on."""

from __future__ import annotations

import re

_LIBM = ("acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh erf erfc exp exp10 exp2 expm1 fabs floor "
         "fma fmax fmin fmod hypot ldexp lgamma log log10 log1p log2 nearbyint pow remainder rint round roundeven sin "
         "sinh sqrt tan tanh tgamma trunc")
LIBM = frozenset(name + suffix for name in _LIBM.split() for suffix in ("", "f"))
LIBC = frozenset(("memcpy", "memmove", "memset"))
POOL_LIBC, POOL_PTHREAD = frozenset(("syscall",)), frozenset(("pthread_create", "pthread_join"))  # for the pool's code
_COMPILER = re.compile(r"__aeabi_\w+|__(u?div|u?mod|u?divmod|mul|ashl|ashr|lshr)[sdt]i[34]")


def is_ordinary(symbol: str) -> bool:
    """True for a function of libm, for memcpy and its like, and for what compilers provide on 32-bit cores."""
    return symbol in LIBM or symbol in LIBC or _COMPILER.fullmatch(symbol) is not None
