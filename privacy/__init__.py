"""Who a shopper is, and who may know it: the rest of the house knows pseudonyms. Knows no tables, no stages, no HTTP."""
