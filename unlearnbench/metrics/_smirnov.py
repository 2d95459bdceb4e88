"""log10 of the exact two-sample Kolmogorov-Smirnov p-value, where the p-value itself underflows.

Under the null hypothesis every order of the n + m pooled values is equally likely. An order is a
lattice path from (0, 0) to (n, m), i values of the sample and j of the reference seen so far, and
p is the share of the paths that somewhere reach |i/n - j/m| >= D (Hodges 1958). Paths are counted
by the point where they first do so: a sum of positive terms, hence exact in log space.
"""

import math

import numpy as np
from numpy.typing import NDArray


def log10_p_value(statistic: float, n: int, m: int) -> float:
    """log10 P(D >= statistic) for samples of n and m without ties, for statistic >= 1/m.

    Range (-inf, 0]; raises nothing. O(n m) additions: about 0.1 s at n = m = 1,000, 2 s at 10,000.
    """
    from scipy.special import gammaln, logsumexp  # slow to import

    log_factorial = gammaln(np.arange(n + m + 1) + 1.0)

    def log_paths(right: int, up: int | NDArray[np.int_]) -> NDArray[np.float64]:
        paths: NDArray[np.float64] = (
            log_factorial[right + up] - log_factorial[right] - log_factorial[up]
        )
        return paths

    # |i/n - j/m| >= D in integers: |i * per_i - j * per_j| >= reach
    per_i, per_j = m // math.gcd(n, m), n // math.gcd(n, m)
    reach = round(statistic * n * per_i)

    def inside(i: int) -> tuple[int, int]:
        """The first and the last j of column i that are not out of reach."""
        return max(0, (i * per_i - reach) // per_j + 1), min(m, (i * per_i + reach - 1) // per_j)

    first, last = inside(0)
    column = np.zeros(last + 1)  # log number of paths to (i, first..last) that stayed inside
    exits: list[NDArray[np.float64]] = []
    for i in range(n + 1):
        if last < m:  # up, out of the top of the column
            exits.append(np.atleast_1d(column[-1] + log_paths(n - i, m - last - 1)))
        if i == n:
            break
        next_first, next_last = inside(i + 1)
        leaving = np.arange(first, min(next_first, last + 1))  # right, below the next column
        exits.append(column[: leaving.size] + log_paths(n - i - 1, m - leaving))
        entering = np.full(next_last - max(last, next_first - 1), -np.inf)
        column = np.logaddexp.accumulate(np.concatenate([column[leaving.size :], entering]))
        first, last = next_first, next_last
    log_p = logsumexp(np.concatenate(exits)) - log_paths(n, m)
    return min(0.0, float(log_p)) / math.log(10)
