// Part of the moec project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#ifndef MOEC_DIALECT_MOE_IR_MOEAUXILIARYOPS_TD
#define MOEC_DIALECT_MOE_IR_MOEAUXILIARYOPS_TD

include "moec/Dialect/MoE/IR/MoEOpBase.td"

def MoE_AuxOp : MoE_PureOp<"aux", [AttrSizedOperandSegments]> {
  let summary = "an auxiliary output of the router: a loss or a statistic";
  let description = [{
    T is the number of tokens; means over no token are 0. Computed in f32 at least.

    | kind | operands | result |
    |---|---|---|
    | `load_balance` | probabilities, routing (group_size) | E · Σ_e f_e · P_e, a scalar |
    | `z_loss` | logits | mean over tokens of (ln Σ_e e^L)², a scalar |
    | `importance_cv2` | routing (weighted) or probabilities | cv²(Σ_t w[t,e]), a scalar |
    | `load_cv2` | logits, noisy_logits, noise_std | cv²(load), a scalar |
    | `tokens_per_expert` | routing | number of entries, i64 [E] |
    | `mean_probability` | probabilities | mean over tokens, [E] |
    | `entropy` | probabilities | mean over tokens of -Σ p·ln p, 0·ln 0 = 0, a scalar |

    load_balance: f_e is the number of entries of expert e (`fraction = first`: of slot
    0 only; default `all`) divided by the number of tokens, and by k of the routing with
    `per_slot`; P_e the mean probability. With `group_size`, the mean of the loss of
    each group of that many consecutive tokens (a call whose T is not a multiple of it
    reports an error).

    load_cv2 [T,E], `k` of the noisy top-k: `shazeer`: load_e = Σ_t Φ((logits -
    threshold) / noise_std), the threshold being the k-th largest noisy logit of the
    token's other experts (tensor2tensor `_prob_in_top_k`); `vmoe`: the same with the
    k-th largest of all noisy logits (V-MoE `_load_auxiliary_loss`). noise_std is [T,E]
    or a scalar (rank 0). Φ is the normal distribution's.
    cv² = variance / (mean² + 1e-10), variance over the E experts (divided by E).

    C1: exactly the kind's operands. C2: fraction and per_slot go with load_balance,
    variant and k with load_cv2, which needs both. C3: 1 ≤ k < E, E static. C4: operands [T,E]
    agree. C5: the result has the kind's shape and type.
  }];
  let arguments = (ins Optional<MoE_Matrix>:$logits, Optional<MoE_Matrix>:$probabilities,
                       Optional<MoE_RoutingType>:$routing, Optional<Index>:$group_size,
                       Optional<MoE_Matrix>:$noisy_logits,
                       Optional<TensorRankOf<[MoE_Float], [0, 2]>>:$noise_std,
                       MoE_AuxKindAttr:$kind, OptionalAttr<MoE_AuxFractionAttr>:$fraction,
                       UnitAttr:$per_slot, OptionalAttr<MoE_LoadVariantAttr>:$variant,
                       OptionalAttr<I64Attr>:$k);
  let results = (outs TensorRankOf<[MoE_Float, I64], [0, 1]>:$result);
  let assemblyFormat = [{
    $kind (`logits` `(` $logits^ `)`)? (`probabilities` `(` $probabilities^ `)`)?
    (`routing` `(` $routing^ `)`)? (`group_size` `(` $group_size^ `)`)?
    (`noisy_logits` `(` $noisy_logits^ `)`)? (`noise_std` `(` $noise_std^ `)`)?
    attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def MoE_BiasUpdateOp : MoE_PureOp<"bias_update", [AllTypesMatch<["bias", "result"]>]> {
  let summary = "one step of auxiliary-loss-free balancing";
  let description = [{
    With c = count [E] and m the mean of c, result = bias + delta: `sign`: delta_e =
    rate · sign(m - c_e); `proportional`: delta_e = rate · (m - c_e) / Σc, and 0 where Σc
    is 0. `recenter` subtracts the mean of delta from it. Source: "Auxiliary-Loss-Free
    Load Balancing Strategy" (2024), section 3; torchtitan (`recenter`).

    C1: E of bias and count agree.
  }];
  let arguments = (ins MoE_Vector:$bias, TensorRankOf<[I64], [1]>:$count,
                       MoE_BiasRuleAttr:$rule, F64Attr:$rate, UnitAttr:$recenter);
  let results = (outs MoE_Vector:$result);
  let assemblyFormat = [{
    $rule $bias `,` $count attr-dict `:` type($bias) `,` type($count)
  }];
  let hasVerifier = 1;
}

#endif
