//! Signals: dispositions, masks, queues, and delivery into guest frames.
