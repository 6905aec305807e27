"""Synthetic Korean insurance cases: 100,000 of them are a JSONL file of about 300 MB. Deterministic."""

from __future__ import annotations

import json
import random
from pathlib import Path

PRODUCTS = "자동차보험 실손의료보험 종신보험 암보험 여행자보험 화재보험 치아보험 반려동물보험 운전자보험 연금보험".split()
SUBJECTS = "입원 통원 수술 진단 간병 골절 화상 후유장해 사망 재해 배상책임 휴대품손해 항공기지연 구조비용".split()
FILLERS = (
    "보험금을 청구할 때에는 청구서와 신분증, 사고를 증명하는 서류를 회사에 내야 합니다.",
    "회사는 서류를 접수한 날부터 3영업일 이내에 보험금을 지급합니다.",
    "계약자는 보험증권을 받은 날부터 15일 이내에 청약을 철회할 수 있습니다.",
    "피보험자가 고의로 사고를 낸 경우에는 보험금을 지급하지 않습니다.",
    "보험료 납입이 연체되면 회사는 14일 이상의 기간을 두고 납입을 최고합니다.",
    "약관에 정하지 않은 사항은 관련 법령에 따릅니다.",
    "계약이 해지되면 해지환급금을 지급하며, 그 금액은 납입한 보험료보다 적을 수 있습니다.",
)


def passages(count: int, seed: int = 1) -> list[tuple[str, str]]:
    """(what it says, the passage) for `count` passages of about 250 characters; RAG systems serve the same ones again and again."""
    generator = random.Random(seed)
    found = []
    for number in range(count):
        product, subject = generator.choice(PRODUCTS), generator.choice(SUBJECTS)
        fact = f"{product}의 {subject} 보험금은 {generator.randint(1, 900)}만원을 한도로 연 {generator.randint(1, 12)}회까지 지급합니다."
        rest = " ".join(generator.sample(FILLERS, 4))
        found.append((fact, f"제{number + 1}조({subject}) {fact} {rest}"))
    return found


def write_cases(path: Path, count: int, *, seed: int = 1) -> None:
    """Write `count` cases; one answer in ten names another amount than its contexts."""
    generator = random.Random(seed)
    pool = passages(max(count // 20, 50), seed)
    with path.open("w", encoding="utf-8") as lines:
        for number in range(count):
            chosen = generator.sample(pool, 6)
            fact = chosen[0][0]
            answer = fact.replace("만원", "0만원") if number % 10 == 0 else fact
            case = {
                "id": f"case-{number:06d}",
                "question": f"{fact.split('의 ')[0]}에서 {fact.split('의 ')[1].split(' ')[0]} 보험금은 얼마까지 받을 수 있나요?",
                "answer": answer,
                "contexts": [text for _, text in chosen],
                "ground_truth": fact,
            }
            lines.write(json.dumps(case, ensure_ascii=False) + "\n")
