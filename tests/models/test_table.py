"""Stored tables against the rows that they were made of."""

import pytest
import torch

from models.served.table import Table


class TestTable:
    @pytest.mark.parametrize(("form", "bits"), [("int8", 8), ("int4", 4)])
    @pytest.mark.parametrize("width", [8, 24, 64, 128, 256])
    def test_codes_are_within_half_a_step_and_products_are_of_the_codes(self, form: str, bits: int, width: int):
        rows, query, items = torch.randn(30, width), torch.randn(3, width), torch.tensor([[1, 0], [29, 7]])
        table = Table(rows, form)
        assert table.codes.numel() * 8 // bits >= rows.numel()
        assert table.codes.dtype == torch.uint8
        step = table.scale.repeat_interleave(table.block, 1)[:, :width]
        assert ((table.all() - rows).abs() <= step / 2 + 1e-6).all()
        torch.testing.assert_close(table.lookup(items), table.all()[items])
        scale, bias = torch.rand(30), torch.randn(30)
        expected = query @ table.all().T * scale + bias
        of_query = query.abs().amax(1, keepdim=True) / 254 * table.all().abs().sum(1) * scale
        assert ((table.product(query, scale, bias) - expected).abs() <= of_query + 1e-5).all()
        torch.testing.assert_close(table.exact(query[:2], items), (query[:2, None] * table.all()[items]).sum(2))

    def test_halves_and_factors(self):
        rows, one = torch.randn(30, 5) @ torch.randn(5, 16), torch.ones(30)
        query = torch.randn(3, 16)
        for table in (Table(rows, "fp16"), Table(rows, rank=5)):
            torch.testing.assert_close(table.all(), rows, atol=1e-2, rtol=1e-3)
            torch.testing.assert_close(table.product(query, one, 0 * one), query @ rows.T, atol=5e-2, rtol=1e-3)
        assert Table(rows, rank=5).floats.shape == (30, 5)
