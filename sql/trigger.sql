-- The trigger function. Written by hand: it is a raw version-1 function, so that its errors carry
-- their own SQLSTATE.
CREATE FUNCTION aimq.realtime_trigger() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'aimq_realtime_trigger';
