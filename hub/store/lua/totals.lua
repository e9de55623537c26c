-- Gives the totals.
return {totals()}
