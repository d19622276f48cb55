"""Plain sentences in scripts that recordings seldom hold, for the built-in counter to be fitted to."""

SAMPLES = tuple(
    """\
Die Bundesregierung hat am Mittwoch beschlossen, die Förderung erneuerbarer Energien deutlich auszuweiten.
Bitte fassen Sie die wichtigsten Ergebnisse des Gesprächs in drei Sätzen zusammen.
Le gouvernement a annoncé mercredi qu'il augmenterait les aides aux énergies renouvelables.
Veuillez résumer les points essentiels de la réunion et préciser les prochaines étapes à réaliser.
El gobierno anunció el miércoles que aumentará el apoyo a las energías renovables.
Por favor, resuma los puntos más importantes de la reunión y explique qué haría usted después.
Rząd ogłosił w środę, że zwiększy wsparcie dla odnawialnych źródeł energii.
Proszę streścić najważniejsze wyniki rozmowy w trzech zdaniach i podać kolejne kroki.
Правительство в среду объявило, что значительно увеличит поддержку возобновляемых источников энергии.
Пожалуйста, кратко изложите самые важные результаты разговора и следующие шаги.
Η κυβέρνηση ανακοίνωσε την Τετάρτη ότι θα αυξήσει σημαντικά τη στήριξη.
Παρακαλώ συνοψίστε τα πιο σημαντικά αποτελέσματα της συζήτησης σε τρεις προτάσεις.
הממשלה הודיעה ביום רביעי כי תגדיל באופן משמעותי את התמיכה באנרגיה מתחדשת.
אנא סכם את תוצאות השיחה בשלושה משפטים.
أعلنت الحكومة يوم الأربعاء أنها ستزيد بشكل كبير الدعم للطاقة المتجددة.
يرجى تلخيص أهم نتائج المحادثة في ثلاث جمل.
सरकार ने बुधवार को घोषणा की कि वह नवीकरणीय ऊर्जा के लिए समर्थन बढ़ाएगी।
कृपया बातचीत के मुख्य परिणाम तीन वाक्यों में बताएं।
รัฐบาลประกาศเมื่อวันพุธว่าจะเพิ่มการสนับสนุนพลังงานหมุนเวียน
โปรดสรุปผลลัพธ์ที่สำคัญที่สุดของการสนทนาเป็นสามประโยค
政府周三宣布，明年将大幅增加对可再生能源的支持，同时减少行政障碍。
请用三句话总结这次谈话最重要的结果，并说明下一步。
政府は水曜日、来年再生可能エネルギーへの支援を大幅に拡大すると発表しました。
会話の重要な結果を三つの文で要約してください。
정부는 수요일에 내년 재생 에너지 지원을 크게 늘리겠다고 발표했다.
대화의 가장 중요한 결과를 세 문장으로 요약해 주세요.
""".splitlines()
)
