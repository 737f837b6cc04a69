"""A short vector that a public coin does not see: what a server would add to a sum if it knew the coin beforehand."""

from __future__ import annotations

from collections.abc import Sequence


def unseen(coins: Sequence[Sequence[int]], scale: int = 1 << 64) -> list[int]:
    """A short integer vector D, not zero, with Σ D_j · coins[j][k] = 0 for every column k.

    LLL reduction, all in integers (B. de Weger; H. Cohen, A Course in Computational Algebraic Number Theory, algorithm
    2.6.7), of the rows (e_j, scale · coins[j]).
    """
    size = len(coins)
    b = [[int(i == j) for j in range(size)] + [scale * c for c in coins[i]] for i in range(size)]
    d = [1] + [0] * size  # d[i + 1]: Gram determinant of the first i + 1 rows
    lam = [[0] * size for _ in range(size)]

    def dot(x: list[int], y: list[int]) -> int:
        return sum(p * q for p, q in zip(x, y, strict=True))

    def reduce(k: int, j: int) -> None:
        if 2 * abs(lam[k][j]) <= d[j + 1]:
            return
        q = (2 * lam[k][j] + d[j + 1]) // (2 * d[j + 1])
        b[k] = [x - q * y for x, y in zip(b[k], b[j], strict=True)]
        lam[k][j] -= q * d[j + 1]
        for i in range(j):
            lam[k][i] -= q * lam[j][i]

    known, k = -1, 0
    while k < size:
        if k > known:
            known = k
            for j in range(k + 1):
                u = dot(b[k], b[j])
                for i in range(j):
                    u = (d[i + 1] * u - lam[k][i] * lam[j][i]) // d[i]
                if j < k:
                    lam[k][j] = u
                else:
                    d[k + 1] = u
        if k == 0:
            k = 1
            continue
        reduce(k, k - 1)
        if 4 * (d[k + 1] * d[k - 1] + lam[k][k - 1] ** 2) < 3 * d[k] ** 2:
            b[k], b[k - 1] = b[k - 1], b[k]
            for j in range(k - 1):
                lam[k][j], lam[k - 1][j] = lam[k - 1][j], lam[k][j]
            mid = lam[k][k - 1]
            new = (d[k - 1] * d[k + 1] + mid * mid) // d[k]
            for i in range(k + 1, known + 1):
                t = lam[i][k]
                lam[i][k] = (d[k + 1] * lam[i][k - 1] - mid * t) // d[k]
                lam[i][k - 1] = (new * t + mid * lam[i][k]) // d[k + 1]
            d[k] = new
            k = max(1, k - 1)
        else:
            for j in range(k - 2, -1, -1):
                reduce(k, j)
            k += 1
    found = next(row[:size] for row in b if not any(row[size:]) and any(row[:size]))
    assert all(sum(x * c[k] for x, c in zip(found, coins, strict=True)) == 0 for k in range(len(coins[0])))
    return found
