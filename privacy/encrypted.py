"""Scores of an audience that whoever computes them may not know: BFV (Fan & Vercauteren 2012; TenSEAL over SEAL) over codes of eight bits.

The client, who has the features, encrypts each of 64 coordinates for itself and sends no key; the server, who has the items, multiplies ciphertexts by its codes and adds them up; the client alone reads the scores, which are those
of integers, bit for bit. What text means is public: signed hashes of words (Weinberger et al. 2009), so that both sides know it without asking. TenSEAL is needed, of the extra `encrypted`.
"""

from collections.abc import Iterable, Sequence
from hashlib import blake2b

WIDTH = 64  # coordinates
LARGEST = 127  # of a code, either sign
SLOTS = 4096  # items a ciphertext; the degree of the ring, with SEAL's coefficients of 109 bits for it: 128 bits of security by homomorphicencryption.org's tables
MODULUS = 2_236_417  # a prime over 2 * 64 * 127^2, and one over a multiple of twice the degree, so that all slots can be used


def features(words: Iterable[str]) -> list[int]:
    """What words say, as WIDTH codes: each adds one to a coordinate or takes one off; the largest becomes LARGEST."""
    sums = [0] * WIDTH
    for word in words:
        hashed = int.from_bytes(blake2b(word.casefold().encode(), digest_size=8).digest(), "little")
        sums[hashed % WIDTH] += 1 if hashed >> 32 & 1 else -1
    largest = max(map(abs, sums)) or 1
    return [round(LARGEST * one / largest) for one in sums]


class Client:
    """Whose features nobody else may know. Its secret key never leaves it."""

    def __init__(self):
        import tenseal

        self._tenseal = tenseal
        self._context = tenseal.context(
            tenseal.SCHEME_TYPE.BFV,
            poly_modulus_degree=SLOTS,
            plain_modulus=MODULUS,
            encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
        )

    def ask(self, codes: Sequence[int]) -> tuple[bytes, list[bytes]]:
        """Parameters without any key, and a ciphertext a coordinate, about 90 KB each.

        Raises:
            ValueError: not WIDTH codes of at most LARGEST.
        """
        if len(codes) != WIDTH or any(abs(code) > LARGEST for code in codes):
            raise ValueError(f"{WIDTH} codes from -{LARGEST} to {LARGEST} are asked for")
        keys = ("public", "secret", "galois", "relin")
        context = self._context.serialize(**{f"save_{key}_key{'s' if key in ('galois', 'relin') else ''}": False for key in keys})
        return context, [self._tenseal.bfv_vector(self._context, [int(code)] * SLOTS).serialize() for code in codes]

    def read(self, answers: Sequence[bytes], items: int) -> list[int]:
        """The scores of so many items."""
        found = [score for one in answers for score in self._tenseal.bfv_vector_from(self._context, one).decrypt()]
        return found[:items]


def score(context: bytes, query: Sequence[bytes], codes: Sequence[Sequence[int]]) -> list[bytes]:
    """What the server does: ciphertexts of the scores of V items, SLOTS in each.

    codes: WIDTH rows of V codes.

    Raises:
        ValueError: what was sent is no query.
    """
    import tenseal

    if len(query) != WIDTH:
        raise ValueError(f"{WIDTH} ciphertexts are asked for")
    try:
        opened = tenseal.context_from(context)
        asked = [tenseal.bfv_vector_from(opened, one) for one in query]
        found = []
        for start in range(0, len(codes[0]), SLOTS):
            block = [list(row[start : start + SLOTS]) for row in codes]
            block = [row + [0] * (SLOTS - len(row)) for row in block]
            total = None
            for one, row in zip(asked, block, strict=True):
                if any(row):  # a product with zeros would be read from its ciphertext
                    total = one * row if total is None else total + one * row
            found.append((total if total is not None else asked[0] * 0).serialize())
    except (ValueError, RuntimeError, TypeError) as error:
        raise ValueError("what was sent is no query of these parameters") from error
    return found
