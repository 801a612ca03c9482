import numpy as np

from tests.backends.tvm.composed import case, check

RNG = np.random.default_rng(4)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def small(dtype: type, *shape: int) -> np.ndarray:
    return RNG.integers(-100 if np.dtype(dtype).kind == "i" else 0, 100, shape).astype(dtype)


def test_matmul_of_vectors_matrices_and_batches() -> None:
    shapes = [((7, 33), (33, 5)), ((12, 64), (64, 32)), ((33,), (33, 5)), ((7, 33), (33,)), ((33,), (33,)),
              ((2, 1, 4, 9), (3, 9, 16)), ((3, 4, 9), (9, 6)), ((5, 1, 7), (5, 7, 1))]
    check([case("MatMul", normal(*a), normal(*b)) for a, b in shapes]
          + [case("MatMul", small(np.int32, 4, 6), small(np.int32, 6, 3))], 1e-5)


def test_matmul_integer_subtracts_zero_points() -> None:
    a, b = small(np.uint8, 4, 9), small(np.int8, 9, 5)
    check([case("MatMulInteger", a, b), case("MatMulInteger", a, b, np.uint8(12), np.int8(-3)),
           case("MatMulInteger", a, b, np.array([12], np.uint8), small(np.int8, 5))])


def test_gemm_with_every_attribute() -> None:
    for flip_a, flip_b in ((0, 0), (1, 0), (0, 1), (1, 1)):
        a = normal(70, 6) if flip_a else normal(6, 70)
        b = normal(9, 70) if flip_b else normal(70, 9)
        check([case("Gemm", a, b, transA=flip_a, transB=flip_b, alpha=0.5),
               case("Gemm", a, b, normal(9), transA=flip_a, transB=flip_b, beta=2.0),
               case("Gemm", a, b, normal(6, 1), transA=flip_a, transB=flip_b, beta=0.0),
               case("Gemm", a, b, np.float32(1.5), transA=flip_a, transB=flip_b)], 1e-5)


def test_einsum_of_products_traces_and_ellipses() -> None:
    check([case("Einsum", normal(3, 4), normal(4, 5), equation="ij,jk->ik"),
           case("Einsum", normal(4, 4), equation="ii"),
           case("Einsum", normal(2, 3, 4), normal(2, 5, 4), equation="...ij,...kj->...ik"),
           case("Einsum", normal(3, 4), equation="ij->ji"), case("Einsum", normal(5), normal(5), equation="i,i")], 1e-5)
