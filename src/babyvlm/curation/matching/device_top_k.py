"""Exact top-k search by score minus price on a GPU, with the lists and bounds of ``top_k``.

Shape letters: M candidates, D embedding width, B rows of a batch, T candidates of a tile, K longest list.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from babyvlm.curation.matching.lists import ROUNDING, TopKLists
from babyvlm.curation.matching.match import Device
from babyvlm.errors import UserError

TILE = 1 << 16  # candidates at once
SCORES = 1 << 27  # scores held at once, 512 MB


def gpu_for_matching(device: Device) -> torch.device | None:
    """Return the GPU that finds the candidates, or None for the CPU.

    Raises:
        UserError: the device is a GPU, but this machine has none.
    """
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return None
    if not torch.cuda.is_available():
        raise UserError("--device gpu: this machine has no GPU that PyTorch can use. Pass --device cpu")
    return torch.device("cuda")


class DeviceTopKSearch:
    """Finds the best candidates of some targets at given prices; a drop-in for ``TopKSearch``.

    Scores are products in float32, without TF32. The candidates stay on the device in their own precision: 5.6 million
    of width 512 take 5.7 GB in float16.

    Args:
        targets: (N, D) embeddings.
        candidates: (M, D) embeddings.
        forbidden: (F, 2) pairs (target, candidate) to leave out.
        device: where the scores are computed.
    """

    def __init__(
        self,
        targets: NDArray[np.floating],
        candidates: NDArray[np.floating],
        forbidden: NDArray[np.int64],
        device: torch.device,
    ) -> None:
        self.targets, self.forbidden, self.device = targets, forbidden, device
        dtype = torch.from_numpy(np.empty(0, candidates.dtype)).dtype
        self.candidates_MD = torch.empty(candidates.shape, dtype=dtype, device=device)
        for start in range(0, len(candidates), TILE):  # they may be mapped, and larger than the memory
            self.candidates_MD[start : start + TILE] = torch.from_numpy(np.array(candidates[start : start + TILE]))

    def search(self, rows: NDArray[np.int64], top_k: NDArray[np.int64], prices: NDArray[np.float64]) -> TopKLists:
        """List the best candidates of each row by score minus price; arguments as in ``TopKSearch.search``."""
        prices_M = torch.from_numpy(prices.astype(np.float32)).to(self.device)
        order = np.argsort(top_k, kind="stable")  # rows with lists of similar length together
        at_once = max(1, SCORES // min(TILE, len(self.candidates_MD)))
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            parts = [
                self._search_part(rows[part], top_k[part], prices_M)
                for part in (order[start : start + at_once] for start in range(0, len(rows), at_once))
            ]
        finally:
            torch.set_float32_matmul_precision(before)
        names = ("rows", "length", "bound", "column", "net_score", "score")
        return TopKLists(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    def _search_part(self, rows: NDArray[np.int64], top_k: NDArray[np.int64], prices_M: torch.Tensor) -> TopKLists:
        total, longest = len(self.candidates_MD), int(top_k.max())
        rows_BD = torch.from_numpy(self.targets[rows].astype(np.float32)).to(self.device)
        excluded_B, excluded_column = self._excluded(rows)
        best_BK = torch.empty(len(rows), 0, device=self.device)
        column_BK = torch.empty(len(rows), 0, dtype=torch.int64, device=self.device)
        for start in range(0, total, TILE):
            tile_TD = self.candidates_MD[start : start + TILE].float()
            net_BT = rows_BD @ tile_TD.T - prices_M[start : start + TILE]
            here = (excluded_column >= start) & (excluded_column < start + TILE)
            if here.any():
                net_BT[excluded_B[here].to(self.device), (excluded_column[here] - start).to(self.device)] = -torch.inf
            columns_T = torch.arange(start, start + len(tile_TD), device=self.device).expand(len(rows), -1)
            values, columns = torch.cat([best_BK, net_BT], 1), torch.cat([column_BK, columns_T], 1)
            best_BK, places = values.topk(min(longest, values.shape[1]), dim=1)
            column_BK = columns.gather(1, places)
        score_BK = best_BK + prices_M[column_BK]
        net, column, score = (values.cpu().numpy() for values in (best_BK, column_BK, score_BK))
        length = np.minimum(top_k, np.isfinite(net).sum(1))
        # No candidate that is left out is above the last one listed; without any, there is no bound.
        last = net[np.arange(len(rows)), np.maximum(length, 1) - 1].astype(np.float64)
        allowed = total - np.bincount(excluded_B.numpy(), minlength=len(rows))
        bound = np.where(length < allowed, last, -np.inf) + ROUNDING
        listed = np.arange(net.shape[1]) < length[:, None]
        return TopKLists(rows, length, bound, column[listed].astype(np.int32), net[listed], score[listed])

    def _excluded(self, rows: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the forbidden pairs of some rows: number of the row in the batch, and candidate."""
        order = np.argsort(rows)
        pairs = self.forbidden[np.isin(self.forbidden[:, 0], rows)]
        numbers = order[np.searchsorted(rows, pairs[:, 0], sorter=order)]
        return torch.from_numpy(numbers), torch.from_numpy(pairs[:, 1])
